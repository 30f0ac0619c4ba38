"""How much memory a model can have for what it computes."""

from __future__ import annotations

import comfy.model_management

from .comfy_types import MODEL
from .cpu import on_cpu


def room(model: MODEL) -> float:
    """Bytes beside a MODEL's weights: what is free on a CPU; on a GPU all the rest, since ComfyUI moves other models
    away."""
    management, device = comfy.model_management, model.load_device
    if on_cpu(device):
        return management.get_free_memory(device)
    return management.get_total_memory(device) - management.extra_reserved_memory() - model.model_size()
