"""Stable Diffusion's noise schedule, as far as one step needs it."""

from __future__ import annotations

import torch


def alpha_bar(timestep: int) -> float:
    """Share of the signal's variance left at a timestep (Stable Diffusion's scaled linear betas, 1000 steps).

    Args:
        timestep: 0 to 999.

    Raises:
        ValueError: timestep out of range.
    """
    if not 0 <= timestep <= 999:
        raise ValueError(f"timestep must be in [0, 999], but got {timestep}")
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0)[timestep].item()
