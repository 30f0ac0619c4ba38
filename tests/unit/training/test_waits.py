"""A step of `sd21` reads no value back from the device: each such read would make the host wait for a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from qusr_train.data.samples import Batch
from qusr_train.training.config import TrainConfig
from qusr_train.training.perceptual import PerceptualLoss
from qusr_train.training.sd21 import SD21Task
from qusr_train.training.step import StepNoise
from qusr_train.training.watch import RunningMeans

pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`")


class Reads(TorchDispatchMode):
    """Counts what `.item()`, `bool(tensor)`, `float(tensor)` and indexing by a mask come down to."""

    WAITING = (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.equal)

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.count += func.overloadpacket in self.WAITING
        return func(*args, **(kwargs or {}))


def test_a_step_waits_for_nothing(tiny_sd21: Path, tmp_path: Path) -> None:
    config = TrainConfig.from_mapping({
        "stage": "sd21", "init": str(tiny_sd21), "photos": "none", "out": str(tmp_path), "precision": "no", "patch": 64,
        "batch_size": 1, "uem_channels": 4, "lpips_weight": 2.0,
    })  # fmt: skip
    task = SD21Task(config, perceptual=PerceptualLoss(None))
    task.prepare(torch.device("cpu"))
    x = torch.rand(1, 3, 64, 64) * 2 - 1
    means = RunningMeans({})
    task.step(task.model, Batch(x, x, ["blurry"]), StepNoise(1, 0, 0, 1, 1), nullcontext)  # prompts are remembered
    with Reads() as reads:
        result = task.step(task.model, Batch(x, x, ["blurry"]), StepNoise(1, 1, 0, 1, 1), nullcontext)
        result.loss.backward()
        means.add(result.figures)
        assert reads.count == 0
        means.read()
        assert result.figures["loss"].item() > 0
    assert reads.count == 1, "the counter sees a read"
