"""What one training step gets and gives: reproducible noise, and its loss with figures and pictures."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from torch import Tensor

Autocast = Callable[[], AbstractContextManager[None]]
"""accelerate's `Accelerator.autocast`."""


class StepNoise:
    """Random numbers of one batch, drawn for the whole joint batch of a step and cut to this batch's part.

    So a step is the same however its samples are spread over processes and accumulated batches, and a
    resumed run needs no random state: everything follows from the seed and the step.

    Args:
        seed: the run's.
        step: number of the optimiser step.
        first: this batch's first sample in the joint batch.
        count: its number of samples.
        total: samples in the joint batch.
    """

    def __init__(self, seed: int, step: int, first: int, count: int, total: int) -> None:
        self.generator = torch.Generator().manual_seed(seed * 7_919 + step)
        self.step = step
        self.part = slice(first, first + count)
        self.total = total

    def normal(self, *shape: int) -> Tensor:
        """Standard normal (B, *shape), on the CPU."""
        return torch.randn((self.total, *shape), generator=self.generator)[self.part]

    def integers(self, low: int, high: int) -> Tensor:
        """(B,) in [low, high), on the CPU."""
        return torch.randint(low, high, (self.total,), generator=self.generator)[self.part]


@dataclass(frozen=True)
class StepResult:
    """Loss of a batch, and what to show of it."""

    loss: Tensor
    figures: dict[str, Tensor] = field(default_factory=dict)
    """Scalars for the log, detached."""
    x_hq: Tensor | None = None
    """(B, 3, H, W) in [-1, 1], the restored batch."""
    u: Tensor | None = None
    """(B, 3, H, W), the raw uncertainty map."""
