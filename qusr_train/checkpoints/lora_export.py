"""The UNet's LoRA in the forms that other programs read."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..model.lora import LoraLayer
from .format import write_file
from .qusr_file import QUSRCheckpoint

FORMS = ("diffusers", "kohya")


def diffusers_keys(lora: dict[str, LoraLayer]) -> dict[str, Tensor]:
    """`unet.LAYER.lora_A.weight` and `lora_B`, as `load_lora_adapter` of diffusers reads them.

    The scale is multiplied into B: without an alpha in the file, peft takes alpha = rank.
    """
    result = {}
    for name, layer in lora.items():
        result[f"unet.{name}.lora_A.weight"] = layer.down
        result[f"unet.{name}.lora_B.weight"] = layer.up * (layer.alpha / layer.down.shape[0])
    return result


def kohya_keys(lora: dict[str, LoraLayer]) -> dict[str, Tensor]:
    """`lora_unet_LAYER.lora_down.weight`, `lora_up` and `alpha`, with underscores for dots."""
    result = {}
    for name, layer in lora.items():
        key = f"lora_unet_{name.replace('.', '_')}"
        result[f"{key}.lora_down.weight"] = layer.down
        result[f"{key}.lora_up.weight"] = layer.up
        result[f"{key}.alpha"] = torch.tensor(layer.alpha)
    return result


def export_lora(checkpoint: QUSRCheckpoint, path: Path, form: str) -> int:
    """Write the LoRA of the UNet alone; the UEM, the noise and the one-step sampling stay behind.

    Returns:
        How many layers.
    """
    tensors = diffusers_keys(checkpoint.lora) if form == "diffusers" else kohya_keys(checkpoint.lora)
    about = {"format": f"lora-{form}", "base_model": checkpoint.base_model, "method": checkpoint.method}
    write_file(path, {name: value.float().contiguous() for name, value in tensors.items()}, about)
    return len(checkpoint.lora)
