"""Figures and the check for NaN without making the device wait: the host reads them only where it logs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.samples import Batch
from ..errors import RunError
from ..files import write_whole


class RunningMeans:
    """Means of figures over the last hundred steps or so, kept on the device."""

    def __init__(self, values: dict[str, float]) -> None:
        self._names = list(values)
        self._means: Tensor | None = torch.tensor(list(values.values())) if values else None

    def add(self, figures: dict[str, Tensor]) -> None:
        """Take up the figures of a batch: scalars."""
        if not figures:
            return
        values = torch.stack([figure.detach().float() for figure in figures.values()])
        if self._means is None or self._names != list(figures):
            self._names, self._means = list(figures), values
        else:
            self._means = self._means.to(values.device).lerp_(values, 0.01)

    def read(self) -> dict[str, float]:
        """The means; waits for the device."""
        return dict(zip(self._names, self._means.tolist(), strict=True)) if self._means is not None else {}


class NaNWatch:
    """Stops a run whose loss is not finite, and keeps the batch.

    On a GPU a loss is looked at when the next step has been queued, so that the device never idles; nothing is
    saved in between.
    """

    def __init__(self, accelerator: Any, out: Path) -> None:
        self.accelerator, self.out = accelerator, out
        self._waiting: tuple[int, Tensor, Tensor, Batch] | None = None

    def put(self, step: int, loss: Tensor, batch: Batch) -> None:
        """Take note of a loss, and look at the one before.

        Raises:
            RunError: that one is not finite, on any of the processes.
        """
        loss = loss.detach()
        finite = torch.isfinite(loss).float()
        if self.accelerator.num_processes > 1:  # all processes must stop together
            finite = self.accelerator.reduce(finite, reduction="mean")
        self.look()
        self._waiting = step, finite, loss, batch
        if loss.device.type == "cpu":
            self.look()

    def look(self) -> None:
        """Look at the last loss now. Raises RunError."""
        if self._waiting is None:
            return
        step, finite, loss, batch = self._waiting
        self._waiting = None
        if finite.item() == 1:
            return
        path = self.out / "nan-batch.pt"
        if not torch.isfinite(loss):
            content = {"x_lq": batch.x_lq.cpu(), "x_gt": batch.x_gt.cpu(), "prompts": batch.prompts, "step": step}
            with write_whole(path) as temporary:
                torch.save(content, temporary)
        raise RunError(f"loss became {loss.item()} at step {step}; the batch is in {path}")
