"""Synthetic camera degradations: a sharp photo becomes a pair of low and high resolution.

Most pairs imitate one camera at two focal lengths, as real test pairs are taken. Sensor and sharpening
act at the pixels of each picture (half of the contrast left at 0.2 to 0.45 cycles per pixel), while
defocus belongs to the scene and is in both pictures: blur beyond a camera's own is not to be undone.
The rest restores the photo itself from a blurred copy. Mild on purpose, a sixth is heavy.
Deterministic for a generator.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ..images.check import enlarge
from .degraded import SCALE, Degraded
from .filters import filter_image, gaussian_kernel, jpeg, sinc_kernel


def _sharpen(x: Tensor, amount: float, radius: float) -> Tensor:
    """Unsharp mask, a camera's own sharpening, halos included."""
    return x + amount * (x - filter_image(x, gaussian_kernel(radius, radius, 0.0, 9)))


def degrade(photo: Tensor, generator: torch.Generator, scale: int = SCALE) -> Degraded:
    """Make a training pair from one photo.

    Args:
        photo: (1, 3, H, W) in [0, 1], sharp; H and W multiples of `scale`.
        generator: every random choice comes from it.
        scale: downscaling factor.
    """

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=generator).item()

    def chance(probability: float) -> bool:
        return torch.rand((), generator=generator).item() < probability

    height, width = photo.shape[-2] // scale, photo.shape[-1] // scale
    heavy = chance(0.16)
    amount = uniform(0.1, 0.9) if chance(0.6) else 0.0
    radius = uniform(0.5, 1.2)
    if chance(0.8):  # one camera, two focal lengths
        defocus = uniform(0.0, 3.2) * scale / 4 if chance(0.5) else 0.0
        softness = math.hypot(defocus, uniform(0.4, 1.1))
        hr = filter_image(photo, gaussian_kernel(softness, softness, 0.0, 2 * math.ceil(3 * softness) + 1))
        if amount:
            hr = _sharpen(hr, amount, radius)
        hr = hr.clamp(0, 1)
        sigma = math.hypot(defocus, scale * uniform(0.4, 0.85))
    else:
        hr = photo
        sigma = uniform(0.5, 3.2 if heavy else 2.5) * scale / 4

    sigma_y = sigma * uniform(0.7, 1.0) if chance(0.4) else sigma
    x = filter_image(photo, gaussian_kernel(sigma, sigma_y, uniform(0, math.pi)))
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

    level = 0.0
    if chance(0.7):
        level = uniform(0, 14.0 if heavy else 4.0)
        shape = (1, 1, height, width) if chance(0.3) else x.shape
        noise = torch.randn(shape, generator=generator)
        if chance(0.5):  # a camera's own denoiser leaves blotches
            blotch = gaussian_kernel(uniform(0.4, 1.1), uniform(0.4, 1.1), 0.0, 9)
            noise = filter_image(noise, blotch) / blotch.square().sum().sqrt()
        if chance(0.5):  # shot noise grows with the signal
            noise = noise * (0.25 + x.clamp(0, 1)).sqrt()
        x = x + noise * (level / 255.0)
    if amount:
        x = _sharpen(x, amount, radius)
    x = (x.clamp(0, 1) * 255.0).round() / 255.0
    quality = 100
    if chance(0.5):
        quality = round(uniform(40, 75) if heavy else uniform(80, 98))
        x = jpeg(x, quality)
    return Degraded(lr=x, hr=hr, blur=math.sqrt(sigma * sigma_y) / scale, noise=level, quality=quality)
