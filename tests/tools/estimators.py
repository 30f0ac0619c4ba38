"""How well does the measured captioner judge photos? python -m tests.tools.estimators PHOTOS

Prints rank correlations with the true level over sweeps of known degradations on every photo of a
folder, the share of words that are those of the true level, and the time for one picture.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from qusr_train.captions import measured as quality
from qusr_train.data.camera import degrade
from qusr_train.data.filters import filter_image, gaussian_kernel, jpeg
from qusr_train.images.find import find_images

BLURS = (0.0, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
NOISES = (0.0, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 12.0)
JPEG_QUALITIES = (100, 95, 90, 80, 70, 55, 40, 20)
LONGER_SIDE = 384
LEVELS = {"blur": quality.BLUR_LEVELS, "noise": quality.NOISE_LEVELS, "blocking": quality.BLOCKING_LEVELS}


def ranks(values: list[float]) -> np.ndarray:
    """Ranks from 0, ties at their mean."""
    array = np.asarray(values)
    _, inverse, counts = np.unique(array, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - 0.5 * (counts + 1))[inverse]


def rank_correlation(a: list[float], b: list[float]) -> float:
    """Spearman's rho, ties at their mean rank."""
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def on_8_bits(image: Tensor) -> Tensor:
    return (image.clamp(0, 1) * 255.0).round() / 255.0


def blur_sweep(photo: Tensor) -> Iterator[tuple[float, Tensor]]:
    """The true sigma in pixels, and the picture."""
    for sigma in BLURS:
        yield sigma, on_8_bits(filter_image(photo, gaussian_kernel(sigma, sigma, 0.0))) if sigma else photo


def noise_sweep(photo: Tensor, generator: torch.Generator, blotchy: bool, grey: bool) -> Iterator[tuple[float, Tensor]]:
    """The true standard deviation in grey levels, and the picture."""
    shape = (1, 1, *photo.shape[-2:]) if grey else photo.shape
    noise = torch.randn(shape, generator=generator)
    if blotchy:
        kernel = gaussian_kernel(0.8, 0.8, 0.0, 9)
        noise = filter_image(noise, kernel) / kernel.square().sum().sqrt()
    for level in NOISES:
        yield level, on_8_bits(photo + noise * (level / 255.0))


def jpeg_sweep(photo: Tensor) -> Iterator[tuple[float, Tensor]]:
    """The true loss 100 - quality, and the picture."""
    for q in JPEG_QUALITIES:
        yield 100.0 - q, jpeg(photo, q) if q < 100 else photo


def read_photo(path: Path, side: int) -> Tensor:
    """(1, 3, H, W) in [0, 1], reduced to a longer side of `side` pixels."""
    with Image.open(path) as opened:
        opened.draft("RGB", (2 * side, 2 * side))
        picture = opened.convert("RGB")
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255.0


def sweeps(paths: list[Path]) -> dict[str, list[tuple[int, float, float]]]:
    """For each degradation (photo, true level, measured level)."""
    rows: dict[str, list[tuple[int, float, float]]] = {}

    def add(name: str, index: int, sweep: Iterator[tuple[float, Tensor]], field: str) -> None:
        for true, picture in sweep:
            rows.setdefault(name, []).append((index, true, getattr(quality.measure_quality(picture)[0], field)))

    for index, path in enumerate(paths):
        photo = read_photo(path, LONGER_SIDE)
        add("blur", index, blur_sweep(photo), "blur")
        for kind, blotchy, grey in (
            ("noise, white, color", False, False),
            ("noise, white, grey", False, True),
            ("noise, blotchy, color", True, False),
            ("noise, blotchy, grey", True, True),
        ):
            generator = torch.Generator().manual_seed(index)
            add(kind, index, noise_sweep(photo, generator, blotchy, grey), "noise")
        add("JPEG", index, jpeg_sweep(photo), "blocking")
    return rows


def mixed(paths: list[Path], crops: int = 6, side: int = 512) -> dict[str, list[tuple[float, float]]]:
    """For each degradation (true, measured) level on the training's random mixtures of them."""
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in LEVELS}
    for index, path in enumerate(paths):
        photo = read_photo(path, 1600)
        for crop in range(crops):
            generator = torch.Generator().manual_seed(1000 * index + crop)
            top = int(torch.randint(max(1, photo.shape[2] - side), (), generator=generator))
            left = int(torch.randint(max(1, photo.shape[3] - side), (), generator=generator))
            window = photo[:, :, top : top + side, left : left + side]
            window = window[..., : window.shape[2] // 4 * 4, : window.shape[3] // 4 * 4].contiguous()
            pair = degrade(window, generator)
            found = quality.measure_quality(pair.lr)[0]
            applied = pair.applied
            assert applied is not None
            rows["blur"].append((applied.blur, found.blur))
            rows["noise"].append((applied.noise, found.noise))
            rows["blocking"].append((100.0 - applied.quality, found.blocking))
    return rows


def main() -> None:
    """Print the report for the photos in the folder given on the command line."""
    if len(sys.argv) < 2:
        raise SystemExit("usage: python -m tests.tools.estimators PHOTOS [even|odd]")
    torch.set_num_threads(1)
    paths = find_images(Path(sys.argv[1]))
    if len(sys.argv) > 2:
        paths = paths[sys.argv[2] == "odd" :: 2]
    print(f"{len(paths)} photos, rank correlation with the true level")
    found = sweeps(paths)
    found["noise, all four"] = [row for name, rows in found.items() if name.startswith("noise") for row in rows]
    for name, rows in found.items():
        each = [
            rank_correlation([t for i, t, _ in rows if i == n], [m for i, _, m in rows if i == n])
            for n in range(len(paths))
        ]
        print(
            f"  sweep of {name}: {rank_correlation([r[1] for r in rows], [r[2] for r in rows]):.3f} over all, "
            f"{np.median(each):.3f} in the median photo, {min(each):.3f} in the worst"
        )
    for field, pairs in mixed(paths).items():
        true, measured = [p[0] for p in pairs], [p[1] for p in pairs]
        off = [
            abs(quality.level(t, LEVELS[field]) - quality.level(m, LEVELS[field]))
            for t, m in zip(true, measured, strict=True)
        ]
        print(
            f"  training mixture, {field}: {rank_correlation(true, measured):.3f}; "
            f"word right {np.mean(np.equal(off, 0)):.0%}, at most one off {np.mean(np.less_equal(off, 1)):.0%} "
            f"of {len(off)}"
        )
    for side in (128, 512):
        picture = torch.nn.functional.interpolate(read_photo(paths[0], 512), size=(side, side))
        quality.measure_quality(picture)
        started = time.process_time()
        for _ in range(20):
            quality.measure_quality(picture)
        print(f"  {side} x {side}: {(time.process_time() - started) * 50:.1f} ms of CPU time")


if __name__ == "__main__":
    main()
