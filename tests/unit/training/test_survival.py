"""A run that is killed, interrupted or out of disk space goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from qusr_train.checkpoints.nano_file import BUNDLED
from qusr_train.training.config import TrainConfig
from qusr_train.training.loop import TrainingStopped, train
from qusr_train.training.nano import NanoTask
from qusr_train.training.state import CheckpointNotWritten

ROOT = Path(__file__).resolve().parents[3]

pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, texture: Tensor) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    Image.fromarray((texture[0] * 255).byte().permute(1, 2, 0).numpy()).save(folder / "photo.png")
    return folder


def _config(photos: Path, out: Path, **changes: Any) -> TrainConfig:
    tiny = {"patch": 64, "batch_size": 1, "steps": 8, "workers": 0, "precision": "no", "photo_factors": (1.0,)}
    tiny |= {"warmup": 2, "save_every": 2, "log_every": 1, "sample_every": 0, "tracker": "none"}
    return TrainConfig(**{"photos": str(photos), "out": str(out), **tiny, **changes})


def _state(out: Path) -> dict[str, Any]:
    return torch.load(out / "base.state.pt", weights_only=True)


def _assert_equal(one: Any, other: Any, where: str = "state") -> None:
    """Bit for bit, at any depth."""
    if isinstance(one, Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            _assert_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            _assert_equal(a, b, f"{where}[{index}]")
    else:
        assert one == other, where


@pytest.fixture(scope="module")
def straight(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("straight")
    train(_config(photos, out))
    return out


def _stop_after(steps: int) -> Callable[[], bool]:
    count = iter(range(1, 10_000))
    return lambda: next(count) >= steps


def test_resumed_run_equals_a_straight_run_bit_for_bit(photos: Path, straight: Path, tmp_path: Path) -> None:
    """Weights, averages, optimiser, random state and figures; stopped in the middle of the cosine schedule."""
    with pytest.raises(TrainingStopped, match="stopped at step 3; the same command goes on"):
        train(_config(photos, tmp_path), should_stop=_stop_after(3))
    assert _state(tmp_path)["step"] == 3
    with pytest.raises(TrainingStopped):
        train(_config(photos, tmp_path, workers=1), should_stop=_stop_after(2))  # data order is not the workers'
    train(_config(photos, tmp_path))
    _assert_equal(_state(tmp_path), _state(straight))
    assert (tmp_path / "base.safetensors").read_bytes() == (straight / "base.safetensors").read_bytes()
    assert _curves(tmp_path) == _curves(straight)


def test_adversarial_run_resumes_bit_for_bit(photos: Path, tmp_path: Path) -> None:
    """Stage `qusr` with a discriminator: its weights, spectral norms and optimiser belong to the state."""
    changes = {"stage": "qusr", "init": str(BUNDLED), "steps": 4, "rank": 2, "add_error_map": True}
    changes |= {
        "feature_weight": 0.2,
        "balance_patches": True,
        "adversarial_weight": 0.1,
        "adversarial_start": 2,
        "adversarial_ramp": 1,
        "adversarial_crop": 32,
    }
    train(_config(photos, tmp_path / "straight", **changes))
    with pytest.raises(TrainingStopped):
        train(_config(photos, tmp_path / "resumed", **changes), should_stop=_stop_after(3))
    train(_config(photos, tmp_path / "resumed", **changes))
    straight, resumed = (
        torch.load(tmp_path / run / "qusr.state.pt", weights_only=True) for run in ("straight", "resumed")
    )
    assert any("_u" in name for name in straight["adversary"]["discriminator"])
    assert straight["adversary"]["optimizer"]["state"][0]["step"] == 4
    _assert_equal(resumed, straight)
    files = [(tmp_path / run / "qusr.safetensors").read_bytes() for run in ("straight", "resumed")]
    assert files[0] == files[1]


def _curves(out: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (out / "base.metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in lines]


def _command(photos: Path, out: Path, *flags: str) -> list[str]:
    config = ["--photos", str(photos), "--out", str(out), "--patch", "64", "--batch_size", "1", "--steps", "8"]
    config += ["--workers", "0", "--precision", "no", "--photo_factors", "1.0", "--warmup", "2", "--save_every", "2"]
    config += ["--log_every", "1", "--sample_every", "0", "--tracker", "none"]
    return [sys.executable, "-m", "qusr_train", "train", *config, *flags]


def _environment() -> dict[str, str]:
    return {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}


def _wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 240
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)


def test_kill_9_loses_at_most_the_steps_since_the_last_checkpoint(photos: Path, straight: Path, tmp_path: Path) -> None:
    """Real processes, killed without warning: once about when the first checkpoint is written, once after one."""
    part = tmp_path / "base.state.pt.part"
    state = tmp_path / "base.state.pt"
    for ready in (lambda: part.exists() or state.exists(), lambda: state.exists() and _state(tmp_path)["step"] >= 4):
        process = subprocess.Popen(_command(photos, tmp_path), cwd=ROOT, env=_environment(), stderr=subprocess.PIPE)
        _wait_for(ready, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it ended before it was killed"
        assert not state.exists() or _state(tmp_path)["step"] % 2 == 0  # whole, and from a multiple of save_every
    done = subprocess.run(_command(photos, tmp_path), cwd=ROOT, env=_environment(), capture_output=True, check=True)
    assert b"resuming at step" in done.stderr
    # Without determinism flags the same thread count is what makes two processes equal.
    _assert_equal(_state(tmp_path), _state(straight))
    assert not list(tmp_path.glob("*.part"))


def test_interrupt_saves_before_it_stops(photos: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        _command(photos, tmp_path, "--save_every", "1000", "--steps", "1000"),
        cwd=ROOT, env=_environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    _wait_for((tmp_path / "base.metrics.jsonl").exists, process)
    process.send_signal(signal.SIGTERM)
    _, shown = process.communicate(timeout=120)
    assert process.returncode == 130
    assert b"the same command goes on from there" in shown
    assert b"Traceback" not in shown
    assert _state(tmp_path)["step"] >= 1
    assert (tmp_path / "base.safetensors").is_file()


def test_a_file_asks_to_stop(photos: Path, tmp_path: Path) -> None:
    """What Cancel does on every system; the file is gone afterwards, so that the run can go on."""
    process = subprocess.Popen(
        _command(photos, tmp_path, "--save_every", "1000", "--steps", "1000"),
        cwd=ROOT, env=_environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    _wait_for((tmp_path / "base.metrics.jsonl").exists, process)
    (tmp_path / "base.stop").touch()
    _, shown = process.communicate(timeout=240)
    assert process.returncode == 130, shown
    assert _state(tmp_path)["step"] >= 1
    assert not (tmp_path / "base.stop").exists()


@pytest.fixture
def small_files() -> Any:
    """A disk that takes no file above 1 MB: the kernel's own refusal, as on a full one."""
    resource = pytest.importorskip("resource", reason="Windows has no limit on file sizes")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))

    def lift() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    yield lift
    lift()


def test_full_disk_is_reported_and_the_last_good_checkpoint_stays(
    photos: Path, straight: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with pytest.raises(TrainingStopped):
        train(_config(photos, tmp_path), should_stop=_stop_after(2))
    before = {path: path.read_bytes() for path in tmp_path.glob("base.s*")}
    lift = request.getfixturevalue("small_files")
    with pytest.raises(CheckpointNotWritten, match=r"step 4 could not be written .*still holds the last good one"):
        train(_config(photos, tmp_path))
    assert {path: path.read_bytes() for path in tmp_path.glob("base.s*")} == before
    lift()
    train(_config(photos, tmp_path))
    _assert_equal(_state(tmp_path), _state(straight))


def test_nan_stops_with_the_batch_saved(photos: Path, tmp_path: Path) -> None:
    config = _config(photos, tmp_path, save_every=1)
    train(_config(photos, tmp_path, save_every=1, steps=1))
    task = NanoTask(config)
    step, count = task.step, iter(range(100))

    def poisoned(*inputs: Any) -> Any:
        if next(count) == 1:
            with torch.no_grad():
                task.model.unet.conv_out.bias.fill_(float("nan"))
        return step(*inputs)

    task.step = poisoned  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match=r"loss became nan at step 2; the batch is in .*nan-batch\.pt"):
        train(config, task)
    saved = torch.load(tmp_path / "nan-batch.pt", weights_only=True)
    assert saved["step"] == 2
    assert saved["x_lq"].shape == (1, 3, 64, 64)
    assert torch.isfinite(saved["x_gt"]).all()
    assert isinstance(saved["prompts"][0], str)
    assert _state(tmp_path)["step"] == 2  # the last good one


def test_state_of_other_settings_is_refused(photos: Path, straight: Path) -> None:
    with pytest.raises(ValueError, match=r"belongs to a run with other settings \(seed\)"):
        train(_config(photos, straight, seed=9, learning_rate=0.1))


def test_damaged_state_is_named(photos: Path, straight: Path, tmp_path: Path) -> None:
    whole = (straight / "base.state.pt").read_bytes()
    (tmp_path / "base.state.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"base\.state\.pt: damaged or not a training state"):
        train(_config(photos, tmp_path))
