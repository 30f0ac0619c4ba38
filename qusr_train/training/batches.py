"""The batches that a run still has before it, in the order of a run that was never interrupted."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader, Subset

from ..data.samples import collate
from .config import TrainConfig


def remaining_batches(samples: Any, done: int, config: TrainConfig, on_gpu: bool) -> DataLoader[Any]:
    """Batches of all samples but the first `done`; workers that load them use one thread each."""
    return DataLoader(
        Subset(samples, range(done, len(samples))), batch_size=config.batch_size, num_workers=config.workers,
        collate_fn=collate, worker_init_fn=_one_thread, persistent_workers=False, pin_memory=on_gpu,
    )  # fmt: skip


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
