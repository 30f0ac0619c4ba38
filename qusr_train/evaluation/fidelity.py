"""PSNR and SSIM on Y, to the last printed digit of the published per-image tables.

Those tables were computed by pyiqa in single precision on an NVIDIA GPU, where PyTorch divides by a
constant by multiplying with its rounded reciprocal, sums products in fused steps (one rounding each)
and takes log10 as ln times log10(e). The same roundings are made here, on any machine; in double
precision the PSNR would differ by up to 3e-6 dB, and 16 of 20 values in the last of six decimals.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from ..errors import InputError
from ..images.gaussian import gaussian_window

_F32 = np.float32
_LUMA = np.array([65.481, 128.553, 24.966], _F32)  # BT.601, range 16-235
_BY_255 = _F32(1) / _F32(255)
_LOG10_E = _F32(math.log10(math.e))


def luma(rgb: np.ndarray) -> np.ndarray:
    """Y in [0, 1] (nominal 16/255 to 235/255) of an (H, W, 3) image in [0, 1], float32, not rounded to grey levels."""
    x = (rgb * 255.0).astype(_F32) * _BY_255
    y = x[..., 0] * _LUMA[0]
    for band in (1, 2):  # the product of two float32 is exact in float64, so the sum is rounded once
        y = (x[..., band].astype(np.float64) * float(_LUMA[band]) + y).astype(_F32)
    return (y + _F32(16)) * _BY_255


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two (H, W, 3) images in [0, 1], on Y; 80 for equal images."""
    error = _F32(np.mean((luma(a) - luma(b)) ** 2, dtype=np.float64))
    ratio = _F32(1) / (error + _F32(1e-8))
    return float(_F32(10) * (_F32(math.log(ratio)) * _LOG10_E))


def _gaussian_window() -> np.ndarray:
    """11 x 11, sigma 1.5, sum 1; rounded to float32 as pyiqa does it, and therefore not separable."""
    window = gaussian_window(11, 1.5, torch.float64).numpy()
    return np.outer(window, window).astype(_F32).astype(np.float64)


def _blur(image: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Weighted means at the valid positions: (H, W) -> (H - 10, W - 10)."""
    height = image.shape[0] - 10
    result = np.lib.stride_tricks.sliding_window_view(image[5 : 5 + height], 11, axis=1) @ window[5]
    for i in range(5):  # the window is symmetric
        rows = image[i : i + height] + image[10 - i : 10 - i + height]
        result += np.lib.stride_tricks.sliding_window_view(rows, 11, axis=1) @ window[i]
    return result


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity of two (H, W, 3) images in [0, 1], on Y rounded to 0-255, in float64.

    Valid positions only; negative contrast-structure terms are clamped to 0.

    Raises:
        ValueError: a side is below 11 pixels.
    """
    if min(a.shape[:2]) < 11:
        raise InputError(f"ssim needs images of at least 11 x 11 pixels, but got {a.shape[1]} x {a.shape[0]}")
    x, y = (np.round(luma(image) * _F32(255)).astype(np.float64) for image in (a, b))
    window = _gaussian_window()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mx, my = _blur(x, window), _blur(y, window)
    vx, vy = _blur(x * x, window) - mx * mx, _blur(y * y, window) - my * my
    vxy = _blur(x * y, window) - mx * my
    structure = np.maximum((2 * vxy + c2) / (vx + vy + c2), 0.0)
    return float(np.mean((2 * mx * my + c1) / (mx * mx + my * my + c1) * structure))
