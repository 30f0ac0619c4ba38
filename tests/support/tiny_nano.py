"""A nano model of a few thousand random weights, and its file."""

from __future__ import annotations

from pathlib import Path

import torch

from qusr_train.checkpoints.nano_file import NanoCheckpoint, save_nano
from qusr_train.model.lora import LoraLayer, target_layers
from qusr_train.model.nano import NanoConfig, NanoUNet
from qusr_train.model.noise import NoiseParameters
from qusr_train.model.text_encoder import build_text_encoder, strip_text_prefix
from qusr_train.model.uncertainty import UEM

CONFIG = NanoConfig(channels=(8, 8), blocks=1, heads=2, text_dim=32, text_layers=1, uem_channels=2)


def build() -> NanoCheckpoint:
    """Random weights with a residual of moderate size, and a LoRA on every target layer."""
    torch.manual_seed(0)
    unet = NanoUNet(CONFIG)
    with torch.no_grad():
        unet.conv_out.weight *= 0.1
        unet.conv_out.bias *= 0.1
    lora = {}
    for name in target_layers(unet):
        shape = unet.state_dict()[f"{name}.weight"].shape
        lora[name] = LoraLayer(torch.randn(4, *shape[1:]) * 0.02, torch.randn(shape[0], 4) * 0.02, 8.0)
        if len(shape) == 4:
            lora[name] = LoraLayer(lora[name].down, lora[name].up[..., None, None], 8.0)
    text_encoder = build_text_encoder(CONFIG)
    return NanoCheckpoint(
        config=CONFIG,
        noise=NoiseParameters(variant="paper", k=0.01, p=0.5),
        unet=dict(unet.state_dict()),
        text_encoder=strip_text_prefix(dict(text_encoder.state_dict())),
        uem=dict(UEM(CONFIG.uem_channels).state_dict()),
        lora=lora,
        training={"base": {"steps": 3}},
    )


def write(path: Path) -> Path:
    """The model as a file."""
    save_nano(path, build())
    return path
