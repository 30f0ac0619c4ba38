"""Two gloo processes, and accumulated batches, give the gradients of one process on the joint batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, texture: Tensor) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    Image.fromarray((texture[0] * 255).byte().permute(1, 2, 0).numpy()).save(folder / "photo.png")
    return folder


def _run(launcher: list[str], photos: Path, out: Path, *flags: str) -> dict[str, Any]:
    """One step; the optimiser's first moment is then 0.1 x the gradient."""
    command = [sys.executable, "-m", *launcher, "train", "--photos", str(photos), "--out", str(out), "--patch", "64"]
    command += ["--steps", "1", "--workers", "0", "--precision", "no", "--photo_factors", "1.0", "--tracker", "none"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *flags], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    stage = "qusr" if "qusr" in flags else "base"
    assert done.stdout.strip().splitlines()[-1:] == [str(out / f"{stage}.safetensors")]
    return torch.load(out / f"{stage}.state.pt", weights_only=True)


ALONE = ["qusr_train"]
TWO = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "qusr_train"]


def _assert_same_gradients(one: dict[str, Any], other: dict[str, Any]) -> None:
    moments = [{k: v["exp_avg"] for k, v in state["optimizer"]["state"].items()} for state in (one, other)]
    assert moments[0].keys() == moments[1].keys()
    assert max(value.abs().max().item() for value in moments[0].values()) > 1e-4
    for key, value in moments[0].items():
        torch.testing.assert_close(moments[1][key], value, atol=2e-7, rtol=2e-4, msg=f"parameter {key}")


def test_two_processes_and_accumulation_equal_the_joint_batch(photos: Path, tmp_path: Path) -> None:
    joint = _run(ALONE, photos, tmp_path / "joint", "--batch_size", "4")
    spread = _run(TWO, photos, tmp_path / "spread", "--batch_size", "1", "--accumulation", "2")
    _assert_same_gradients(joint, spread)


def test_noise_is_spread_like_the_samples(photos: Path, tmp_path: Path) -> None:
    """Stage `qusr` draws noise for the joint batch, so it does not depend on the number of processes either."""
    _run(ALONE, photos, tmp_path / "base", "--batch_size", "1")
    start = ("--stage", "qusr", "--init", str(tmp_path / "base" / "base.safetensors"))
    joint = _run(ALONE, photos, tmp_path / "joint", "--batch_size", "2", *start)
    spread = _run(TWO, photos, tmp_path / "spread", "--batch_size", "1", *start)
    _assert_same_gradients(joint, spread)
