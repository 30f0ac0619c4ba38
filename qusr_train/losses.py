"""Training losses (QUSR, arXiv 2603.09125, equations 8 and 9). Images are (B, 3, H, W) in [-1, 1]."""

from __future__ import annotations

import torch
from torch import Tensor


def uncertainty_loss(x_hq: Tensor, x_gt: Tensor, u_n: Tensor, alpha: float) -> Tensor:
    """Equation 8: L1(x_hq e^-U_n, x_gt e^-U_n) + alpha mean(U_n).

    The minimum over U_n lies at ln(|x_hq - x_gt| / alpha), so alpha is the error below which the
    module should report no uncertainty. The reference normalises by U_n = sigmoid(U), alpha = 2;
    nano by U_n = |U|, which is also what the noise scale (eq. 6) reads.

    Args:
        x_hq: restored image.
        x_gt: target.
        u_n: normalised uncertainty, the same shape, at least 0.
        alpha: weight of the regulariser.
    """
    weight = torch.exp(-u_n)
    return ((x_hq - x_gt) * weight).abs().mean() + alpha * u_n.mean()


def gradient_loss(x_hq: Tensor, x_gt: Tensor) -> Tensor:
    """Mean absolute difference of the horizontal and vertical differences: keeps edges as steep as the target's."""
    dx = (x_hq - x_gt).diff(dim=-1).abs().mean()
    dy = (x_hq - x_gt).diff(dim=-2).abs().mean()
    return dx + dy


def charbonnier_loss(x_hq: Tensor, x_gt: Tensor, eps: float = 1e-3) -> Tensor:
    """Smooth L1: mean sqrt(d^2 + eps^2)."""
    return torch.sqrt((x_hq - x_gt) ** 2 + eps * eps).mean()
