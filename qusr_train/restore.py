"""Restore photos with qusr-nano without ComfyUI: the whole chain on plain tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .checkpoint import BUNDLED, NanoCheckpoint, load_nano, text_encoder_config
from .lora import merge
from .nano import NanoConfig, NanoUNet, PixelUnshuffleVAE
from .noise import injected_noise, noise_sigma, residual_step, seeded_noise
from .prompt import encode_tokens
from .uncertainty import UEM, estimate_uncertainty


def build_text_encoder(config: NanoConfig, state: dict[str, Tensor] | None = None) -> Any:
    """The small CLIP text model of transformers (4.x or 5.x), in evaluation mode when weights are given."""
    from transformers import CLIPTextConfig, CLIPTextModel

    encoder = CLIPTextModel(CLIPTextConfig(**text_encoder_config(config)))
    if state is not None:
        prefix = "text_model." if any(k.startswith("text_model.") for k in encoder.state_dict()) else ""
        missing, unexpected = encoder.load_state_dict({prefix + k: v for k, v in state.items()}, strict=False)
        wrong = [key for key in missing if "position_ids" not in key] + list(unexpected)
        if wrong:
            raise ValueError(f"text encoder: keys do not fit: {', '.join(wrong[:5])}")
        encoder.eval()
    return encoder
