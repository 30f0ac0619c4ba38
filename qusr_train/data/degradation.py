"""The ways a photo becomes low-resolution, by name."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from .camera import degrade
from .degraded import Degraded
from .real_esrgan import degrade_second_order

Degradation = Callable[[Tensor, torch.Generator, int], Degraded]
"""(1, 3, H, W) in [0, 1], generator, scale -> a pair."""


def degradation(name: str, sharpen_targets: bool = False) -> Degradation:
    """The degradation called `camera` or `second_order`."""
    if name == "camera":
        return degrade
    return functools.partial(degrade_second_order, sharpen=sharpen_targets)
