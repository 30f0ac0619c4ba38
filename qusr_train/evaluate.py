"""Image quality figures: PSNR and SSIM on Y, as the paper's tables compute them (pyiqa's definitions)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .files import write_whole

METRICS = ("psnr", "ssim")
_LUMA = np.array([65.481, 128.553, 24.966]) / 255.0  # BT.601, range 16-235


def luma(rgb: np.ndarray) -> np.ndarray:
    """Y in [0, 1] (nominal 16/255 to 235/255) of an (H, W, 3) image in [0, 1], float64, not rounded."""
    return rgb.astype(np.float64) @ _LUMA + 16.0 / 255.0


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two (H, W, 3) images in [0, 1], on Y."""
    error = np.mean((luma(a) - luma(b)) ** 2)
    return float(10.0 * np.log10(1.0 / (error + 1e-8)))


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity of two (H, W, 3) images in [0, 1], on Y rounded to 0-255.

    Gaussian window 11 x 11, sigma 1.5, valid positions only, negative contrast-structure terms
    clamped to 0.
    """
    if min(a.shape[:2]) < 11:
        raise ValueError(f"ssim needs images of at least 11 x 11 pixels, but got {a.shape[1]} x {a.shape[0]}")
    x, y = np.round(luma(a) * 255.0), np.round(luma(b) * 255.0)
    r = np.arange(11) - 5
    window = np.exp(-(r**2) / (2 * 1.5**2))
    window /= window.sum()

    def blur(image: np.ndarray) -> np.ndarray:
        rows = np.lib.stride_tricks.sliding_window_view(image, 11, axis=1) @ window
        return np.lib.stride_tricks.sliding_window_view(rows, 11, axis=0) @ window

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mx, my = blur(x), blur(y)
    vx, vy, vxy = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
    structure = np.maximum((2 * vxy + c2) / (vx + vy + c2), 0.0)
    return float(np.mean((2 * mx * my + c1) / (mx * mx + my * my + c1) * structure))


_FUNCTIONS = {"psnr": psnr, "ssim": ssim}


def load_rgb(path: Path) -> np.ndarray:
    """(H, W, 3), float64 in [0, 1]. Raises ValueError naming a file that is not an image."""
    try:
        with Image.open(path) as opened:
            return np.asarray(opened.convert("RGB"), dtype=np.float64) / 255.0
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path}: cannot be read as an image ({error})") from error


def _by_stem(paths: list[Path]) -> dict[str, Path]:
    result: dict[str, Path] = {}
    for path in paths:
        if path.stem in result:
            raise ValueError(
                f"{path} and {result[path.stem]} have the same name; images are matched by name, rename one"
            )
        result[path.stem] = path
    return result


def evaluate_folders(predictions: Path, truths: Path, metrics: tuple[str, ...] = METRICS) -> dict[str, Any]:
    """Compare two folders of images, matched by stem.

    Returns:
        {"per_image": {stem: {metric: value}}, "mean": {metric: value}}

    Raises:
        ValueError: unknown metric, no common names, or a pair of different sizes.
    """
    from .data import find_images

    for metric in metrics:
        if metric not in _FUNCTIONS:
            raise ValueError(f"--metrics: unknown metric {metric!r}; known: {', '.join(METRICS)}")
    truth_by_stem = _by_stem(find_images(truths))
    per_image: dict[str, dict[str, float]] = {}
    for stem, path in _by_stem(find_images(predictions)).items():
        truth = truth_by_stem.get(stem)
        if truth is None:
            continue
        a, b = load_rgb(path), load_rgb(truth)
        if a.shape != b.shape:
            raise ValueError(
                f"{path.name}: prediction is {a.shape[1]} x {a.shape[0]}, ground truth {b.shape[1]} x {b.shape[0]}; "
                "both must have the same size"
            )
        per_image[path.stem] = {m: _FUNCTIONS[m](a, b) for m in metrics}
    if not per_image:
        raise ValueError(f"no image in {predictions} has the same name as one in {truths}")
    mean = {m: float(np.mean([v[m] for v in per_image.values()])) for m in metrics}
    return {"per_image": per_image, "mean": mean}


def write_json(path: Path, report: dict[str, Any]) -> None:
    """Write a report, whole or not at all."""
    with write_whole(path) as temporary:
        temporary.write_text(json.dumps(report, indent=1, sort_keys=True), encoding="utf-8")
