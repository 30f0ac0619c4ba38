"""The ways a photo becomes low-resolution, by name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from .camera import MILD, SHARP, degrade
from .degraded import Degraded
from .real_esrgan import AUTHORS, PUBLISHED, degrade_second_order, read_ranges

Degradation = Callable[[Tensor, torch.Generator, int], Degraded]
"""(1, 3, H, W) in [0, 1], generator, scale -> a pair."""


def degradation(name: str, sharpen_targets: bool = False, ranges: str = "") -> Degradation:
    """The degradation called `camera`, `camera_mild` (little to undo), `camera_sharp` (most targets are the photo
    itself), `second_order` (Real-ESRGAN's ranges) or `authors` (those of QUSR's code).

    Args:
        sharpen_targets: unsharp-mask the targets; not for the cameras.
        ranges: JSON file with ranges that replace those of the name; not for the cameras.
    """
    if name == "camera":
        return degrade
    if name == "camera_mild":
        return functools.partial(degrade, cameras=MILD)
    if name == "camera_sharp":
        return functools.partial(degrade, cameras=SHARP)
    chosen = read_ranges(Path(ranges)) if ranges else AUTHORS if name == "authors" else PUBLISHED
    return functools.partial(degrade_second_order, sharpen=sharpen_targets, ranges=chosen)
