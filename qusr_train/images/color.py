"""Colour fixes: give a restored image the colours of its input, keep its detail.

`wavelet` replaces the low frequencies, `adain` matches mean and standard deviation of each
channel. Both are the definitions used by StableSR and its descendants, QUSR among them.
"""

from __future__ import annotations

from torch import Tensor

COLOR_FIXES = ("wavelet", "adain", "none")
WAVELET_LEVELS = 5


def low_pass(image: Tensor, radius: int) -> Tensor:
    """One a-trous step: the (1, 2, 1)/4 kernel with holes of `radius`, replicated borders."""
    # Sums of shifted pictures: a depthwise convolution of the same weights takes twenty times as long on a CPU.
    for dim in (-1, -2):
        size = image.shape[dim]
        reach = min(radius, size)
        rest = size - reach
        near, far = image.narrow(dim, 0, 1), image.narrow(dim, size - 1, 1)  # the borders, repeated
        result = image * 0.5
        result.narrow(dim, reach, rest).add_(image.narrow(dim, 0, rest), alpha=0.25)
        result.narrow(dim, 0, reach).add_(near, alpha=0.25)
        result.narrow(dim, 0, rest).add_(image.narrow(dim, reach, rest), alpha=0.25)
        result.narrow(dim, rest, reach).add_(far, alpha=0.25)
        image = result
    return image


def low_frequencies(image: Tensor, levels: int = WAVELET_LEVELS) -> Tensor:
    """What remains of (B, C, H, W) after `levels` a-trous low-pass steps of radius 1, 2, 4, ..."""
    for level in range(levels):
        image = low_pass(image, 2**level)
    return image


def wavelet_fix(image: Tensor, reference: Tensor) -> Tensor:
    """High frequencies of `image`, low frequencies of `reference`, both (B, C, H, W) in one range."""
    # The low-pass is linear: filtering the difference once replaces filtering both images.
    return image + low_frequencies(reference - image)


def adain_fix(image: Tensor, reference: Tensor, eps: float = 1e-5) -> Tensor:
    """Shift and scale every channel of `image` to the mean and standard deviation of `reference`."""

    def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
        flat = x.flatten(2)
        correction = 1 if flat.shape[2] > 1 else 0
        deviation = (flat.var(dim=2, correction=correction) + eps).sqrt()
        return flat.mean(dim=2)[..., None, None], deviation[..., None, None]

    mean, deviation = statistics(image)
    mean_ref, deviation_ref = statistics(reference)
    return (image - mean) / deviation * deviation_ref + mean_ref


def fix_color(image: Tensor, reference: Tensor, method: str) -> Tensor:
    """Apply a colour fix by name.

    Args:
        image, reference: (B, C, H, W) of the same shape, any common range.
        method: `wavelet`, `adain` or `none`.

    Raises:
        ValueError: unknown method or different shapes.
    """
    if method not in COLOR_FIXES:
        raise ValueError(f"method must be one of {', '.join(COLOR_FIXES)}, but got {method!r}")
    if image.shape != reference.shape:
        raise ValueError(
            f"image and reference must have the same shape, but got {tuple(image.shape)} and {tuple(reference.shape)}"
        )
    if method == "wavelet":
        return wavelet_fix(image, reference)
    if method == "adain":
        return adain_fix(image, reference)
    return image
