"""Synthetic camera degradations: a sharp photo becomes its low-resolution counterpart.

Mild on purpose: blur, downscaling, tone variation, sensor noise, the sharpening halos and ringing
that cameras add, JPEG. A sixth of the samples are heavy. Deterministic for a generator.
"""

from __future__ import annotations

import io
import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from .images import enlarge

SCALE = 4


def gaussian_kernel(sigma_x: float, sigma_y: float, angle: float, size: int = 21) -> Tensor:
    """Rotated anisotropic gaussian, (size, size), sums to 1; sigmas in pixels, angle in radians."""
    r = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
    y, x = torch.meshgrid(r, r, indexing="ij")
    u = (x * math.cos(angle) + y * math.sin(angle)) / max(sigma_x, 1e-3)
    v = (-x * math.sin(angle) + y * math.cos(angle)) / max(sigma_y, 1e-3)
    kernel = torch.exp(-0.5 * (u * u + v * v))
    return kernel / kernel.sum()


def sinc_kernel(cutoff: float, size: int = 21) -> Tensor:
    """Circular low-pass filter, whose ringing imitates over-sharpened and resampled photos.

    Args:
        cutoff: in radians per pixel, (0, pi].
    """
    r = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
    y, x = torch.meshgrid(r, r, indexing="ij")
    radius = torch.sqrt(x * x + y * y)
    safe = radius.clamp(min=1e-6)
    kernel = cutoff * torch.special.bessel_j1(cutoff * safe) / (2 * math.pi * safe)
    kernel[radius < 1e-6] = cutoff**2 / (4 * math.pi)
    return kernel / kernel.sum()


def filter_image(image: Tensor, kernel: Tensor) -> Tensor:
    """Convolve each channel of (B, C, H, W) with (n, n), n odd, replicating the border."""
    pad = kernel.shape[-1] // 2
    channels = image.shape[1]
    weight = kernel[None, None].expand(channels, 1, -1, -1)
    return F.conv2d(F.pad(image, (pad, pad, pad, pad), mode="replicate"), weight, groups=channels)


def jpeg(image: Tensor, quality: int) -> Tensor:
    """Through a real JPEG encoder: (1, 3, H, W) in [0, 1] -> the same, decoded."""
    array = (image[0].permute(1, 2, 0) * 255.0).round().clamp(0, 255).byte().numpy()
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG", quality=quality)
    decoded = np.asarray(Image.open(buffer), dtype=np.float32) / 255.0
    return torch.from_numpy(decoded).permute(2, 0, 1)[None]


def degrade(hr: Tensor, generator: torch.Generator, scale: int = SCALE) -> Tensor:
    """Make the low-resolution input for one photo.

    Args:
        hr: (1, 3, H, W) in [0, 1], H and W multiples of `scale`.
        generator: every random choice comes from it.
        scale: downscaling factor.

    Returns:
        (1, 3, H / scale, W / scale) in [0, 1], on the 8-bit grid.
    """

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=generator).item()

    def chance(probability: float) -> bool:
        return torch.rand((), generator=generator).item() < probability

    height, width = hr.shape[-2] // scale, hr.shape[-1] // scale
    heavy = chance(0.16)
    x = hr

    # A camera is about as soft at the pixels of a small photo as at those of a large one (sigma up to
    # 0.8 pixel): from the large to the small one that is a blur of up to 0.8 * scale large pixels.
    sigma = uniform(0.5, 4.0 if heavy else 3.2)
    sigma_y = sigma * uniform(0.6, 1.0) if chance(0.5) else sigma
    x = filter_image(x, gaussian_kernel(sigma, sigma_y, uniform(0, math.pi)))
    if chance(0.05):
        x = filter_image(x, sinc_kernel(uniform(math.pi / 4, math.pi / 2)))
    kind = torch.randint(3, (), generator=generator).item()
    if kind == 0:
        x = enlarge(x, height, width)
    elif kind == 1:
        x = F.interpolate(x, size=(height, width), mode="area")
    else:
        x = F.interpolate(x, size=(height, width), mode="bilinear", antialias=True)

    if chance(0.3):  # two cameras never agree on tone
        x = x.clamp(0, 1) ** uniform(0.97, 1.03)
        gains = torch.tensor([uniform(0.985, 1.015) for _ in range(3)])
        x = x * gains.view(1, 3, 1, 1)

    if chance(0.7):
        strength = uniform(0, 14.0 if heavy else 4.0) / 255.0
        shape = (1, 1, height, width) if chance(0.3) else x.shape
        noise = torch.randn(shape, generator=generator) * strength
        if chance(0.5):  # shot noise grows with the signal
            noise = noise * (0.25 + x.clamp(0, 1)).sqrt()
        if chance(0.4):  # a camera's own denoiser leaves blotches
            noise = filter_image(noise, gaussian_kernel(uniform(0.4, 0.9), uniform(0.4, 0.9), 0.0, 7)) * 2.0
        x = x + noise
    if chance(0.6):  # a camera's own sharpening: halos that must not be amplified
        radius = uniform(0.5, 1.2)
        x = x + uniform(0.1, 0.9) * (x - filter_image(x, gaussian_kernel(radius, radius, 0.0, 9)))
    x = (x.clamp(0, 1) * 255.0).round() / 255.0
    if chance(0.5):
        x = jpeg(x, round(uniform(40, 75) if heavy else uniform(80, 98)))
    return x
