"""How much could be gained on pairs DATA/lr, DATA/hr at all? `python -m tests.bench.headroom DATA`.

For each pair, the linear filter (13 x 13 taps, every second pixel) that maps the enlarged input to the
target with the least squared error, fitted on that very pair: an oracle, which knows the answer. It bounds
what sharpening and smoothing alone can reach; a shift between the pictures counts as gain too.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from qusr_train.evaluation.fidelity import psnr, ssim
from qusr_train.images.find import find_images
from qusr_train.images.read import read_exact, read_image
from qusr_train.restore import Restorer

TAPS, STRIDE = 13, 2


def oracle(source: Tensor, target: Tensor) -> Tensor:
    """(3, H, W) -> the filtered source, the same filter for every channel."""
    pad = TAPS // 2 * STRIDE
    padded = F.pad(source[:, None], (pad,) * 4, mode="reflect")
    columns = F.unfold(padded, TAPS, dilation=STRIDE).movedim(1, 2).flatten(0, 1)
    columns = torch.cat([columns, torch.ones(len(columns), 1)], 1).double()
    normal = columns.T @ columns + 1e-3 * torch.eye(columns.shape[1], dtype=torch.double)
    taps = torch.linalg.solve(normal, columns.T @ target.flatten().double())
    return (columns @ taps).reshape(source.shape).float().clamp(0, 1)


def main(folder: str) -> None:
    """Print a Markdown table of the gains over bicubic."""
    data, restorer, rows = Path(folder), Restorer(), []
    print("| pair | nano dB | nano SSIM | oracle dB | oracle SSIM |")
    print("|---|---|---|---|---|")
    for path in find_images(data / "lr"):
        truth = read_exact(data / "hr" / path.name)
        result = restorer(read_image(path).rgb)
        bicubic = result.bicubic[0]
        target = torch.from_numpy(np.ascontiguousarray(truth)).movedim(-1, 0).float()
        images = (bicubic, result.image[0], oracle(bicubic, target))
        scores = [(psnr(a, truth), ssim(a, truth)) for a in (x.movedim(0, -1).numpy() for x in images)]
        row = [score[k] - scores[0][k] for score in scores[1:] for k in (0, 1)]
        rows.append(row)
        print(f"| {path.stem} | {row[0]:+.2f} | {row[1]:+.4f} | {row[2]:+.2f} | {row[3]:+.4f} |", flush=True)
    for name, function in (("mean", statistics.fmean), ("median", statistics.median)):
        a, b, c, d = (function(column) for column in zip(*rows, strict=True))
        print(f"| **{name}** | {a:+.2f} | {b:+.4f} | {c:+.2f} | {d:+.4f} |")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("give a folder with the subfolders lr and hr")
    main(sys.argv[1])
