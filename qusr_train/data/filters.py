"""What degradations are made of: blur, ringing, JPEG."""

from __future__ import annotations

import io
import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..images.write import to_picture


def squared_distance(size: int, sigma_x: float, sigma_y: float, angle: float) -> Tensor:
    """From the middle of (size, size), in sigmas (squared Mahalanobis distance); sigmas in pixels, angle in radians."""
    r = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
    y, x = torch.meshgrid(r, r, indexing="ij")
    u = (x * math.cos(angle) + y * math.sin(angle)) / sigma_x
    v = (-x * math.sin(angle) + y * math.cos(angle)) / sigma_y
    return u * u + v * v


def gaussian_kernel(sigma_x: float, sigma_y: float, angle: float, size: int = 21) -> Tensor:
    """Rotated anisotropic gaussian, (size, size), sums to 1; sigmas in pixels, angle in radians."""
    kernel = torch.exp(-0.5 * squared_distance(size, max(sigma_x, 1e-3), max(sigma_y, 1e-3), angle))
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


LARGE = 11  # side of a kernel from which the Fourier transform is faster


def filter_image(image: Tensor, kernel: Tensor) -> Tensor:
    """Correlate each channel of (B, C, H, W) with (n, n), n odd, replicating the border."""
    pad = kernel.shape[-1] // 2
    channels = image.shape[1]
    padded = F.pad(image, (pad, pad, pad, pad), mode="replicate")
    if kernel.shape[-1] < LARGE:
        return F.conv2d(padded, kernel[None, None].expand(channels, 1, -1, -1), groups=channels)
    size = padded.shape[-2:]
    product = torch.fft.rfft2(padded) * torch.fft.rfft2(kernel.flip(0, 1), s=size)
    return torch.fft.irfft2(product, s=size)[..., 2 * pad :, 2 * pad :]


def jpeg(image: Tensor, quality: int) -> Tensor:
    """Through a real JPEG encoder: (1, 3, H, W) in [0, 1] -> the same, decoded."""
    buffer = io.BytesIO()
    to_picture(image[0]).save(buffer, "JPEG", quality=quality)
    decoded = np.asarray(Image.open(buffer), dtype=np.float32) / 255.0
    return torch.from_numpy(decoded).permute(2, 0, 1)[None]
