"""`make measure DATA=folder`: the bundled model against bicubic on pairs DATA/lr (small) and DATA/hr (4x)."""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from qusr_train.evaluation.fidelity import psnr, ssim
from qusr_train.images.find import find_images
from qusr_train.images.read import read_exact, read_image
from qusr_train.restore import Restorer


def _eight_bit(image: Tensor) -> np.ndarray:
    return np.round(image[0].permute(1, 2, 0).numpy().astype(np.float64) * 255.0) / 255.0


def main(folder: str) -> int:
    """Print the table as Markdown; one thread, the first image is a warm-up and not timed."""
    data = Path(folder)
    if not folder or not (data / "lr").is_dir() or not (data / "hr").is_dir():
        print("DATA: give a folder with the subfolders lr and hr", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    restorer = Restorer()
    sources = find_images(data / "lr")
    restorer(read_image(sources[0]).rgb)
    rows: list[tuple[float, float, float, float, float]] = []
    for source in sources:
        small, truth = read_image(source).rgb, read_exact(data / "hr" / source.name)
        started = time.perf_counter()
        result = restorer(small)
        seconds = time.perf_counter() - started
        bicubic, restored = _eight_bit(result.bicubic), _eight_bit(result.image)
        scores = (psnr(bicubic, truth), ssim(bicubic, truth), psnr(restored, truth), ssim(restored, truth))
        rows.append((*scores, seconds))
    mean = [statistics.mean(column) for column in zip(*rows, strict=True)]
    print(f"{len(rows)} pairs, torch {torch.__version__}, CPU, 1 thread")
    print("| method | PSNR (Y) | SSIM (Y) | time per image |\n|---|---|---|---|")
    print(f"| bicubic | {mean[0]:.3f} dB | {mean[1]:.4f} | |")
    print(f"| qusr-nano | {mean[2]:.3f} dB | {mean[3]:.4f} | {statistics.median(r[4] for r in rows):.2f} s |")
    better = sum(r[2] >= r[0] for r in rows), sum(r[3] > r[1] for r in rows)
    print(f"qusr-nano is at least as good in PSNR on {better[0]} and better in SSIM on {better[1]} of {len(rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else ""))
