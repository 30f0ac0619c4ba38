"""Stable Diffusion's VAE as a list of layers, whichever library built it: what the exact tiles go through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import GroupNorm

Layer = Callable[[Tensor], Tensor]
"""What is done to a window (1, C, h, w); pads its borders itself, as on the whole image."""


@dataclass(frozen=True)
class Residual:
    """x + conv2(silu(norm2(conv1(silu(norm1(x)))))), x through the shortcut when the channels change."""

    norm1: GroupNorm
    conv1: Layer
    norm2: GroupNorm
    conv2: Layer
    shortcut: Layer | None = None
    shortcut_halo: int = 0
    """Pixels that the shortcut looks at to each side."""


@dataclass(frozen=True)
class Attention:
    """Every position looks at every other; the four layers take and give (1, C, h, w)."""

    norm: GroupNorm
    q: Layer
    k: Layer
    v: Layer
    out: Layer


@dataclass(frozen=True)
class Level:
    """Blocks at one size, and what halves (encoder) or doubles (decoder) it afterwards."""

    blocks: tuple[Residual, ...]
    resize: Layer | None


@dataclass(frozen=True)
class Coder:
    """An encoder, or a decoder with its levels from small to large."""

    entry: Layer
    levels: tuple[Level, ...]
    middle: tuple[Residual, Attention, Residual]
    norm_out: GroupNorm
    conv_out: Layer

    @property
    def sweeps(self) -> int:
        """How often it goes over all tiles."""
        blocks = [block for level in self.levels for block in level.blocks] + [self.middle[0], self.middle[2]]
        resizes = sum(level.resize is not None for level in self.levels)
        return 5 + resizes + sum(2 + (block.shortcut is not None) for block in blocks)  # 5: entry, attention, conv_out


@dataclass(frozen=True)
class VAELayers:
    """Stable Diffusion's VAE, whichever library built it."""

    encoder: Coder
    quant_conv: Layer
    decoder: Coder
