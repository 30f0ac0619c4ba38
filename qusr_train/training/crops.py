"""Random crops for losses whose networks have strides."""

from __future__ import annotations

import torch
from torch import Tensor

from .step import StepNoise


def same_crops(pictures: list[Tensor], size: int, noise: StepNoise) -> list[Tensor]:
    """Crop each sample of every (B, 3, H, W) at one random place of its own; pictures below `size` stay whole.

    At any pixel: networks with strides see some positions better than others, and at fixed places a model learns
    to hide a grid where they do not look.
    """
    height, width = pictures[0].shape[-2:]
    tall, wide = min(size, height), min(size, width)
    ys = noise.integers(0, height - tall + 1).tolist()
    xs = noise.integers(0, width - wide + 1).tolist()
    return [
        torch.stack([one[:, y : y + tall, x : x + wide] for one, y, x in zip(picture, ys, xs, strict=True)])
        for picture in pictures
    ]
