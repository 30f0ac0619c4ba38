"""Stable Diffusion's noise schedule, as far as one step needs it.

Our own, since it is three lines and ComfyUI, where OSEDiff's step needs it, does not bring diffusers.
"""

from __future__ import annotations

import torch
from torch import Tensor


def alphas_cumprod(start: float = 0.00085, end: float = 0.012, steps: int = 1000) -> Tensor:
    """Share of the signal's variance left at each timestep, (steps,), float64: scaled linear betas."""
    betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0)


def alpha_bar(timestep: int) -> float:
    """`alphas_cumprod` at one timestep, 0 to 999. Raises ValueError: out of range."""
    if not 0 <= timestep <= 999:
        raise ValueError(f"timestep must be in [0, 999], but got {timestep}")
    return alphas_cumprod()[timestep].item()
