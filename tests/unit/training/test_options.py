"""Training options, each in a real run of a few steps on nano: precision, 8-bit optimiser, trackers."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from qusr_train.checkpoints.nano_file import BUNDLED, load_nano
from qusr_train.packages import MissingPackages
from qusr_train.training.config import TrainConfig
from qusr_train.training.loop import train
from qusr_train.training.nano import NanoTask

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, texture: Tensor) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    Image.fromarray((texture[0] * 255).byte().permute(1, 2, 0).numpy()).save(folder / "photo.png")
    return folder


def _config(photos: Path, out: Path, **changes: Any) -> TrainConfig:
    tiny = {"patch": 64, "batch_size": 1, "steps": 2, "workers": 0, "precision": "no", "photo_factors": (1.0,)}
    return TrainConfig(**{"photos": str(photos), "out": str(out), "tracker": "none", **tiny, **changes})


def test_bf16_keeps_the_weights_in_float32_and_stays_near_them(photos: Path, tmp_path: Path) -> None:
    full, mixed = (
        load_nano(train(_config(photos, tmp_path / precision, precision=precision, warmup=0)))
        for precision in ("no", "bf16")
    )
    state = torch.load(tmp_path / "bf16" / "base.state.pt", weights_only=True)
    assert {value.dtype for value in state["model"].values()} == {torch.float32}
    start = NanoTask(_config(photos, tmp_path)).model.unet.state_dict()
    one, other = (torch.cat([(m.unet[k] - v).flatten() for k, v in start.items()]) for m in (full, mixed))
    assert not torch.equal(one, other)
    assert torch.cosine_similarity(one, other, dim=0) > 0.9  # the same way, to bf16's noise


def test_error_map_learns_in_bf16_too(photos: Path, tmp_path: Path) -> None:
    """Its dilated convolutions have NaN gradients when they run in bf16 on the CPU."""
    changes = {"stage": "qusr", "init": str(BUNDLED), "add_error_map": True, "rank": 2, "warmup": 0}
    model = load_nano(train(_config(photos, tmp_path, precision="bf16", **changes)))
    assert all(torch.isfinite(value).all() for value in model.uem.values())
    assert model.uem["blocks.2.weight"].abs().max() > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="fp16 is not refused on a GPU")
def test_fp16_is_refused_without_a_gpu(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"precision: fp16 needs a GPU; on the CPU use bf16 or no"):
        train(_config(photos, tmp_path, precision="fp16"))


def test_eight_bit_optimizer_without_its_package_says_how_to_get_it(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    told = r"optimizer: adamw8bit needs bitsandbytes, .* -m pip install bitsandbytes - adamw works without"
    with pytest.raises(MissingPackages, match=told):
        train(_config(photos, tmp_path, optimizer="adamw8bit"))


def test_eight_bit_optimizer_keeps_large_states_in_one_byte(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    train(_config(photos, tmp_path, optimizer="adamw8bit"))
    state = torch.load(tmp_path / "base.state.pt", weights_only=True)
    kept = [entry["__bnb_optimizer_quant_state__"] for entry in state["optimizer"]["state"].values()]
    assert {
        moment.dtype for entry in kept for moment in (entry["state1"], entry["state2"]) if moment.numel() >= 4096
    } == {torch.uint8}
    assert train(_config(photos, tmp_path, optimizer="adamw8bit", steps=3)).is_file()  # its state is read back


def test_wandb_writes_into_the_run_only(photos: Path, tmp_path: Path) -> None:
    """In a process of its own: wandb writes the last of its record when the process ends."""
    pytest.importorskip("wandb")
    command = [sys.executable, "-m", "qusr_train", "train", "--photos", str(photos), "--out", "run", "--steps", "2"]
    command += ["--patch", "64", "--batch_size", "1", "--workers", "0", "--precision", "no", "--photo_factors", "1.0"]
    command += ["--tracker", "wandb", "--log_every", "1", "--sample_every", "1"]
    environment = {**os.environ, "WANDB_MODE": "offline", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (record,) = (tmp_path / "run" / "logs" / "wandb").glob("offline-run-*/*.wandb")
    assert b"pixel_loss" in record.read_bytes()
    assert len(list(record.parent.glob("files/media/images/samples*.png"))) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_tensorboard_holds_curves_and_pictures(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(_config(photos, tmp_path, tracker="tensorboard", log_every=1, sample_every=2))
    events = EventAccumulator(str(tmp_path / "logs" / "base"))
    events.Reload()
    assert [point.step for point in events.Scalars("pixel_loss")] == [1, 2]
    assert events.Tags()["images"] == ["samples: input, result, target, uncertainty"]


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb"])
def test_tracker_without_its_package_says_how_to_get_it(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracker: str
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == tracker else real(name, *more))
    with pytest.raises(
        MissingPackages, match=f"tracker: {tracker} needs {tracker}, .* -m pip install {tracker} - none"
    ):
        train(_config(photos, tmp_path, tracker=tracker))
