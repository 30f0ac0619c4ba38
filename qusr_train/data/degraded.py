"""What a degradation gives: a pair of low and high resolution."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

SCALE = 4


@dataclass(frozen=True)
class Applied:
    """What was done to a low-resolution picture, and can be undone."""

    blur: float
    """Gaussian blur of `lr` beyond what is in `hr` too, standard deviation in pixels of `lr`."""
    noise: float
    """Standard deviation of the noise in `lr`, grey levels (0-255)."""
    quality: int
    """JPEG quality of `lr`; 100 when it was never compressed."""


@dataclass(frozen=True)
class Degraded:
    """A training pair and what was done to it."""

    lr: Tensor
    """(1, 3, H / scale, W / scale) in [0, 1], on the 8-bit grid."""
    hr: Tensor
    """(1, 3, H, W) in [0, 1], the target."""
    applied: Applied | None = None
    """None where a few numbers cannot say it, as after second-order degradations."""
