"""The last steps of a camera: fewer pixels, noise, sharpening, 8 bits, JPEG."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ..images.check import enlarge
from .choices import Choices
from .filters import filter_image, gaussian_kernel, jpeg


def sharpened(x: Tensor, amount: float, radius: float) -> Tensor:
    """Unsharp mask, a camera's own sharpening, halos included."""
    return x + amount * (x - filter_image(x, gaussian_kernel(radius, radius, 0.0, 9)))


def reduced(x: Tensor, height: int, width: int, choices: Choices) -> Tensor:
    """(B, C, H, W) at a smaller size, by one of three filters."""
    kind = choices.below(3)
    if kind == 0:
        return enlarge(x, height, width)
    if kind == 1:
        return F.interpolate(x, size=(height, width), mode="area")
    return F.interpolate(x, size=(height, width), mode="bilinear", antialias=True)


def recorded(
    x: Tensor, choices: Choices, heavy: bool, amount: float, radius: float, noisy: float
) -> tuple[Tensor, float, int]:
    """What the sensor and its camera make of a picture.

    Args:
        x: (1, 3, h, w) in [0, 1].
        choices: every random choice comes from it.
        heavy: strong noise and low JPEG quality.
        amount, radius: of the camera's own sharpening.
        noisy: share of pictures with noise.

    Returns:
        The picture on the 8-bit grid, its noise in grey levels, its JPEG quality.
    """
    level, quality = 0.0, 100
    if choices.chance(noisy):
        level = choices.uniform(0, 18.0 if heavy else 4.0)
        noise = choices.normal((1, 1, *x.shape[-2:]) if choices.chance(0.3) else tuple(x.shape))
        if choices.chance(0.5):  # a camera's own denoiser leaves blotches
            blotch = gaussian_kernel(choices.uniform(0.4, 1.1), choices.uniform(0.4, 1.1), 0.0, 9)
            noise = filter_image(noise, blotch) / blotch.square().sum().sqrt()
        if choices.chance(0.5):  # shot noise grows with the signal
            noise = noise * (0.25 + x.clamp(0, 1)).sqrt()
        x = x + noise * (level / 255.0)
    if amount:
        x = sharpened(x, amount, radius)
    x = (x.clamp(0, 1) * 255.0).round() / 255.0
    if choices.chance(0.35):
        quality = round(choices.uniform(40, 75) if heavy else choices.uniform(80, 98))
        x = jpeg(x, quality)
    return x, level, quality
