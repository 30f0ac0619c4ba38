"""Fast against direct 3 x 3 convolutions on this CPU, one thread: `python -m tests.bench.convolutions`.

The layers that take most of SD 2.1's time at 512 x 512; CPU seconds, the smaller of two runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from qusr_train.model.winograd import convolve

LAYERS = (("VAE", 128, 512), ("VAE", 256, 256), ("VAE", 512, 128), ("VAE", 512, 64), ("UNet", 320, 64))
"""Channels, side."""


def seconds(run: Callable[[], Tensor]) -> float:
    spent = []
    for _ in range(2):
        start = time.process_time()
        run()
        spent.append(time.process_time() - start)
    return min(spent)


@torch.inference_mode()
def main() -> None:
    """Print a Markdown table."""
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}\n\n| layer | direct s | fast s | times as fast | largest difference |")
    print("|---|---|---|---|---|")
    for part, channels, side in LAYERS:
        x = torch.randn(1, channels, side, side)
        weight = torch.randn(channels, channels, 3, 3) / (9 * channels) ** 0.5
        difference = (convolve(x, weight) - F.conv2d(x, weight, padding=1)).abs().max().item()
        direct = seconds(lambda x=x, w=weight: F.conv2d(x, w, padding=1))  # type: ignore[misc]
        fast = seconds(lambda x=x, w=weight: convolve(x, w))  # type: ignore[misc]
        name = f"{part}, {channels} channels, {side} x {side}"
        print(f"| {name} | {direct:.3f} | {fast:.3f} | {direct / fast:.2f} | {difference:.1e} |", flush=True)


if __name__ == "__main__":
    main()
