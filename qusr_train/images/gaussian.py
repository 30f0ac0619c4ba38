"""The bell curve that windows, blurs and tile weights are made of."""

from __future__ import annotations

import torch
from torch import Tensor


def bell(size: int, sigma: float, dtype: torch.dtype = torch.float32, device: torch.device | None = None) -> Tensor:
    """exp(-x^2 / (2 sigma^2)) at `size` whole steps around the middle, (size,); its peak is 1 for an odd size."""
    x = torch.arange(size, dtype=dtype, device=device) - (size - 1) / 2
    return torch.exp(-x * x / (2 * sigma * sigma))


def gaussian_window(
    size: int, sigma: float, dtype: torch.dtype = torch.float32, device: torch.device | None = None
) -> Tensor:
    """`bell` with the sum 1."""
    curve = bell(size, sigma, dtype, device)
    return curve / curve.sum()
