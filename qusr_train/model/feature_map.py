"""A feature map that waits in host memory, and a GroupNorm over the whole of it, window by window."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import GroupNorm

NORMALIZED_AT_ONCE = 32  # channels in float32 at once


class FeatureMap:
    """A feature map in host memory and the mean and variance of its channels.

    Args:
        data: (1, C, H, W).
    """

    def __init__(self, data: Tensor) -> None:
        self.data = data
        channels = data.shape[1]
        self.count = 0
        self.mean = torch.zeros(channels, dtype=torch.float64)
        self.squares = torch.zeros(channels, dtype=torch.float64)  # of the deviations from the mean

    def write(self, y: int, x: int, part: Tensor) -> None:
        """Store a tile at its place and take up its statistics (Chan et al. 1979: no cancellation)."""
        h, w = part.shape[-2:]
        self.data[:, :, y : y + h, x : x + w] = part.to(self.data.device)
        values = part[0].float().flatten(1)
        variance, mean = (statistic.double().cpu() for statistic in torch.var_mean(values, dim=1, correction=0))
        size, total = h * w, self.count + h * w
        difference = mean - self.mean
        self.mean += difference * (size / total)
        self.squares += variance * size + difference.square() * (self.count * size / total)
        self.count = total

    def normalizer(self, norm: GroupNorm) -> Callable[[Tensor], Tensor]:
        """A GroupNorm of this map as a function of any window of it."""
        groups = norm.num_groups
        mean = self.mean.unflatten(0, (groups, -1))
        center = mean.mean(1, keepdim=True)
        within = self.squares.unflatten(0, (groups, -1)) / self.count
        variance = (within + (mean - center).square()).mean(1, keepdim=True)
        rate = (variance + norm.eps).rsqrt().expand_as(mean).flatten()
        scale = norm.weight.double().cpu() * rate
        shift = norm.bias.double().cpu() - center.expand_as(mean).flatten() * scale
        affine = torch.stack([scale, shift]).float().view(2, 1, -1, 1, 1)

        def normalize(window: Tensor) -> Tensor:
            a, result = affine.to(window.device), torch.empty_like(window)
            for start in range(0, window.shape[1], NORMALIZED_AT_ONCE):
                one = slice(start, start + NORMALIZED_AT_ONCE)
                result[:, one] = torch.addcmul(a[1][:, one], window[:, one].float(), a[0][:, one])
            return result

        return normalize
