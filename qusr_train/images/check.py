"""Checking and enlarging images, shared by the nodes, the command line and the training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError

BRIGHTEST = 16.0
"""Above it, values are not an overshoot of [0, 1], but pixels of 0 to 255 or an HDR picture: clamping gives white."""


class ImageError(InputError):
    """An image that cannot be used; the message names the input and the remedy."""


@dataclass(frozen=True)
class CheckedImage:
    """A usable image batch."""

    rgb: Tensor
    """(B, 3, H, W), float32 in [0, 1]."""
    alpha: Tensor | None
    """(B, 1, H, W), float32 in [0, 1], for images that came with one."""


def check_image(image: Tensor, name: str = "image") -> CheckedImage:
    """Validate an image in ComfyUI's layout and split off its alpha.

    Grey images become RGB; values outside [0, 1] are clamped.

    Args:
        image: (B, H, W, C) with 1, 3 or 4 channels, nominally in [0, 1].
        name: the input's name for messages.

    Raises:
        ImageError: not an image batch, empty, or with NaN or infinite pixels.
    """
    if not isinstance(image, Tensor):
        raise ImageError(f"{name}: expected an IMAGE, but got {type(image).__name__}")
    if image.layout != torch.strided or image.is_meta or image.is_complex():
        raise ImageError(f"{name}: expected plain pixels, but got a sparse, complex or empty kind of tensor")
    if image.ndim == 5:
        raise ImageError(
            f"{name}: got a video batch {tuple(image.shape)}; split it into frames (B, H, W, C) first, "
            "for example with Get Video Components"
        )
    if image.ndim != 4:
        raise ImageError(f"{name}: expected (batch, height, width, channels), but got {tuple(image.shape)}")
    if 0 in image.shape:
        raise ImageError(f"{name}: is empty, its shape is {tuple(image.shape)}; connect at least one pixel")
    channels = image.shape[-1]
    if channels not in (1, 3, 4):
        raise ImageError(f"{name}: expected 1 (grey), 3 (RGB) or 4 (RGBA) channels, but got {channels}")
    if not image.is_floating_point():
        kind = str(image.dtype).removeprefix("torch.")
        raise ImageError(
            f"{name}: expected floating-point values in [0, 1], but got {kind}; for pixels of 0 to 255 give "
            "image.float() / 255"
        )
    x = image.detach().float().movedim(-1, 1)
    bad = int((~torch.isfinite(x)).sum())
    if bad:
        raise ImageError(
            f"{name}: {bad} values are NaN or infinite. They usually come from a VAE or model run in half "
            "precision: run it in fp32 (for example --fp32-vae), or load the picture again"
        )
    largest = float(x.max())
    if largest > BRIGHTEST:
        raise ImageError(
            f"{name}: expected values in [0, 1], but got up to {largest:g}. Divide pixels of 0 to 255 by 255; map the "
            "tones of an HDR picture to [0, 1] first"
        )
    x = x.clamp(0, 1)
    rgb = x.expand(-1, 3, -1, -1) if channels == 1 else x[:, :3]
    return CheckedImage(rgb.contiguous(), x[:, 3:].contiguous() if channels == 4 else None)


def enlarge(image: Tensor, height: int, width: int) -> Tensor:
    """Bicubic resize with a = -0.5 and antialiasing, as Pillow does it, in floating point.

    Args:
        image: (B, C, H, W), any range.
        height, width: of the result, at least 1.
    """
    return F.interpolate(image, size=(height, width), mode="bicubic", antialias=True, align_corners=False)
