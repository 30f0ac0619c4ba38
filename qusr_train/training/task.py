"""What the training loop asks of a model with its losses."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from ..data.samples import Batch, Sample
from ..restore import RestoresPhotos
from .config import TrainConfig
from .discriminator import Adversary
from .step import Autocast, StepNoise, StepResult


class Task(Protocol):
    """A model with its losses: `NanoTask`, `SD21Task`."""

    model: Any
    """nn.Module with everything that is trained by the main optimiser, its UEM under `uem`."""
    adversary: Adversary | None
    """Trained against the model by its own optimiser."""

    def prepare(self, device: torch.device) -> None: ...
    def compile(self) -> None: ...
    def dataset(self, length: int) -> Dataset[Sample]: ...
    def step(self, model: nn.Module, batch: Batch, noise: StepNoise, autocast: Autocast) -> StepResult: ...
    def export(self, weights: dict[str, Tensor], path: Path, summary: dict[str, Any]) -> None: ...
    def restorer(self, weights: dict[str, Tensor]) -> AbstractContextManager[RestoresPhotos]: ...


def make_task(config: TrainConfig) -> Task:
    """The task of a stage; heavy libraries are imported only for the one in use."""
    if config.stage == "sd21":
        from .sd21 import SD21Task

        return SD21Task(config)
    from .nano import NanoTask

    return NanoTask(config)
