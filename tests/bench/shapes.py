"""SD 2.1-base's shapes with random weights, and a picture: what every benchmark at full size runs on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

SCALE = 0.18215
UNET = {
    "sample_size": 64, "in_channels": 4, "out_channels": 4, "block_out_channels": (320, 640, 1280, 1280),
    "attention_head_dim": (5, 10, 20, 20), "cross_attention_dim": 1024, "use_linear_projection": True,
}  # fmt: skip
VAE = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
TEXT = {
    "vocab_size": 49408, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23,
    "num_attention_heads": 16, "hidden_act": "gelu", "projection_dim": 512,
}  # fmt: skip
PROMPT = "The image has fair clarity, slightly soft. There is slight noise and no compression artifacts."


def weights(shapes: dict[str, torch.Size], seed: int) -> Iterator[tuple[str, Tensor]]:
    """Random weights that keep activations in range: the same for the same names and seed."""
    for index, (name, shape) in enumerate(sorted(shapes.items())):
        generator = torch.Generator().manual_seed(seed * 100_003 + index)
        if len(shape) == 1:
            value = torch.ones(shape) if "norm" in name and name.endswith("weight") else torch.zeros(shape)
        else:
            fan_in = shape[1:].numel()
            value = (torch.rand(shape, generator=generator) * 2 - 1) * (1.5 / fan_in) ** 0.5
        yield name, value


def skeleton(kind: str) -> Any:
    """The diffusers (or transformers) module without memory."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        if kind == "unet":
            return UNet2DConditionModel(**UNET)
        if kind == "vae":
            return AutoencoderKL(**VAE)
        return CLIPTextModel(CLIPTextConfig(**TEXT))


def parameter_shapes(module: Any) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in module.state_dict().items() if "position_ids" not in name}


def random_module(kind: str, seed: int) -> Any:
    """The diffusers (or transformers) module on the CPU with random weights, ready to run."""
    module = skeleton(kind).to_empty(device="cpu")
    module.load_state_dict(dict(weights(parameter_shapes(module), seed)), strict=False)
    for name, buffer in module.named_buffers():
        if "position_ids" in name:
            buffer.copy_(torch.arange(buffer.shape[-1])[None])
    return module.requires_grad_(False).eval()


def photo(size: int) -> Tensor:
    """A smooth picture with some texture, (1, size, size, 3) in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, max(2, size // 32), max(2, size // 32), generator=generator)
    fine = torch.rand(1, 3, size, size, generator=generator) * 0.1
    image = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic") * 0.8 + fine
    return image.clamp(0, 1).movedim(1, -1)
