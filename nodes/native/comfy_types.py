"""ComfyUI's objects by their socket's name. The first four are Any: ComfyUI ships no types for them."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias, TypedDict

from torch import Tensor

MODEL: TypeAlias = Any
"""comfy.model_patcher.ModelPatcher"""
CLIP: TypeAlias = Any
"""comfy.sd.CLIP"""
VAE: TypeAlias = Any
"""comfy.sd.VAE"""
ModelOptions: TypeAlias = dict[str, Any]
"""A ModelPatcher's `model_options`."""
CONDITIONING: TypeAlias = list[list[Any]]
"""Entries [encoded prompt (B, N, C), its options]."""


class LATENT(TypedDict, total=False):
    samples: Tensor
    """(B, C, h, w)."""
    noise_mask: Tensor
    """(B, 1, H, W) or (B, H, W)."""
    batch_index: list[int]
    """Numbers of the images in the batch they were taken from."""
    qusr_size: tuple[int, int]
    """Height and width of the image before padding, see QUSR VAE Encode."""


class NOISE(Protocol):
    """What RandomNoise and QUSR Adaptive Noise give."""

    @property
    def seed(self) -> int: ...

    def generate_noise(self, input_latent: LATENT) -> Tensor: ...
