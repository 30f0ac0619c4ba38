"""Figures of one picture after another, in this process or spread over several."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, RunError
from ..images.map_file import read_map
from ..images.read import read_exact
from .fidelity import psnr, ssim
from .perceptual import PYIQA_METRICS, create
from .reliability import Reliability
from .uncertainty import map_figures, pixel_error

OWN = {"psnr": psnr, "ssim": ssim}
"""Computed here; the other metrics by pyiqa."""
PICTURES_EACH = 8
"""A process takes seconds to start: less work than this is not worth one."""


@dataclass(frozen=True)
class Pair:
    """What is compared."""

    prediction: Path
    truth: Path
    map: Path | None = None
    """Uncertainty map of the prediction."""


@dataclass(frozen=True)
class Figures:
    """Of one pair."""

    scores: dict[str, float]
    reliability: Reliability | None = None
    """Of the map, to be merged over all pairs."""


@dataclass(frozen=True)
class Settings:
    """What a `Judge` is made from; travels to other processes."""

    metrics: tuple[str, ...]
    device: str = "cpu"
    download: bool = False
    niqe: Path | None = None


class Judge:
    """Computes the figures of pairs.

    Args:
        settings: the metrics with one value for each picture, and how pyiqa's are made.
    """

    def __init__(self, settings: Settings) -> None:
        self.metrics = settings.metrics
        self.calls: dict[str, Any] = {
            metric: OWN.get(metric) or create(metric, settings.device, settings.download, settings.niqe)
            for metric in settings.metrics
        }

    def __call__(self, pair: Pair) -> Figures:
        """Raises InputError when the two differ in size, or the map does not fit."""
        import torch

        a, b = read_exact(pair.prediction), read_exact(pair.truth)
        if a.shape != b.shape:
            raise InputError(
                f"{pair.prediction.name}: prediction is {a.shape[1]} x {a.shape[0]}, "
                f"ground truth {b.shape[1]} x {b.shape[0]}; both must have the same size"
            )
        scores: dict[str, float] = {}
        for metric in self.metrics:
            if metric in OWN:
                scores[metric] = self.calls[metric](a, b)
                continue
            x, y = (torch.from_numpy(image).float().movedim(-1, 0)[None] for image in (a, b))  # (1, 3, H, W)
            inputs = (x, y) if PYIQA_METRICS[metric].reads_truth else (x,)
            scores[metric] = float(self.calls[metric](*inputs))
        if pair.map is None:
            return Figures(scores)
        uncertainty = read_map(pair.map, a.shape[:2])
        reliability = Reliability()
        reliability.add(uncertainty, pixel_error(a, b))
        return Figures(scores | dataclasses.asdict(map_figures(uncertainty, a, b)), reliability)


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_processes(pictures: int, device: str = "cpu") -> int:
    """As many as there are cores, but none with only a few pictures; one for a GPU, which they would share."""
    return max(1, min(usable_cores(), pictures // PICTURES_EACH)) if device == "cpu" else 1


def judge_all(settings: Settings, pairs: Iterable[Pair], processes: int) -> Generator[Figures, None, None]:
    """Figures of each pair, in their order. The values do not depend on the number of processes.

    Raises:
        InputError: the first pair that cannot be judged; the others are not waited for.
        RunError: a process was ended from outside.
    """
    if processes <= 1:
        yield from map(Judge(settings), pairs)
        return
    # Fresh processes: a fork of one that has threads (torch's) can hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, initializer=_start, initargs=(settings,))
    try:
        yield from pool.map(_judge, pairs)
    except BrokenProcessPool as error:
        raise RunError("a process was ended from outside, perhaps since memory is short; use fewer", "processes",
                       processes) from error  # fmt: skip
    finally:
        pool.shutdown(cancel_futures=True)


_own: Callable[[Pair], Figures]
"""The judge of a process of the pool."""


def _start(settings: Settings) -> None:
    import torch

    global _own
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits for this one
    torch.set_num_threads(1)
    _own = Judge(settings)


def _judge(pair: Pair) -> Figures:
    return _own(pair)
