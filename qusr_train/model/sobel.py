"""How much noise each part of a photo gets, read off its edges without a model (CODSR, arXiv 2512.14061).

Where neighbouring pixels differ much there is texture to make up, and the noise keeps its full strength; on flat
areas only `LOW_WEIGHT` of it is left.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

BLOCK = 16  # pixels; twice the side of one latent pixel of Stable Diffusion
LOW, HIGH = 0.15, 0.25  # mean magnitudes between which the weight rises
LOW_WEIGHT, HIGH_WEIGHT = 0.3, 1.0
_GREY = (0.299, 0.587, 0.114)


def sobel_magnitude(x: Tensor) -> Tensor:
    """|gx| + |gy| of the grey picture, with Sobel's 3 x 3 kernels (not normalised) and repeated borders.

    Args:
        x: (B, 3, H, W) in [0, 1].

    Returns:
        (B, 1, H, W), 0 to 8.
    """
    grey = (x * x.new_tensor(_GREY).view(1, 3, 1, 1)).sum(1, keepdim=True)
    p = nn.functional.pad(grey, (1, 1, 1, 1), mode="replicate")
    columns = p[..., :-2, :] + 2 * p[..., 1:-1, :] + p[..., 2:, :]  # smoothed along y, (B, 1, H, W + 2)
    rows = p[..., :-2] + 2 * p[..., 1:-1] + p[..., 2:]  # smoothed along x, (B, 1, H + 2, W)
    gx = columns[..., 2:] - columns[..., :-2]
    gy = rows[..., 2:, :] - rows[..., :-2, :]
    return gx.abs() + gy.abs()


def sobel_weight(magnitude: Tensor) -> Tensor:
    """The mean of each 16 x 16 block as a weight: 0.3 up to 0.15, rising with slope 7 to 1.0 from 0.25 on.

    Args:
        magnitude: (B, 1, H, W) from `sobel_magnitude`; blocks at the right and lower edge repeat its last values.

    Returns:
        (B, 1, H, W) in [0.3, 1], constant in each block.
    """
    height, width = magnitude.shape[-2:]
    padded = nn.functional.pad(magnitude, (0, -width % BLOCK, 0, -height % BLOCK), mode="replicate")
    mean = nn.functional.avg_pool2d(padded, BLOCK)
    slope = (HIGH_WEIGHT - LOW_WEIGHT) / (HIGH - LOW)
    weight = LOW_WEIGHT + slope * (mean - LOW).clamp(min=0.0)
    weight = torch.where(mean > HIGH, HIGH_WEIGHT, weight)
    return weight.repeat_interleave(BLOCK, 2).repeat_interleave(BLOCK, 3)[..., :height, :width]


def sobel_uncertainty(x_lq: Tensor) -> Tensor:
    """CODSR's weight map in the place of a UEM's map.

    Args:
        x_lq: (B, 3, H, W) in [-1, 1], the input image at the output's size.

    Returns:
        U: (B, 3, H, W) in [0.3, 1], the same in all channels.
    """
    return sobel_weight(sobel_magnitude((x_lq + 1) / 2)).expand(-1, 3, -1, -1).contiguous()


def sobel_sigma(u: Tensor, block: int) -> Tensor:
    """Noise weight of each latent pixel: the map's value at its first image pixel, not encoded by any VAE.

    Args:
        u: (B, 3, H, W) from `sobel_uncertainty`.
        block: side of a latent pixel in image pixels, a divisor of 16.

    Returns:
        (B, 1, ceil(H / block), ceil(W / block)).
    """
    if block < 1 or BLOCK % block:
        raise ValueError(f"block must be a divisor of {BLOCK}, but got {block}")
    return u[:, :1, ::block, ::block]
