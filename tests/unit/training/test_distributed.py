"""Two gloo processes, and accumulated batches, give the gradients of one process on the joint batch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from qusr_train.training.config import load_config_file

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, texture: Tensor) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    Image.fromarray((texture[0] * 255).byte().permute(1, 2, 0).numpy()).save(folder / "photo.png")
    return folder


def _run(launcher: list[str], photos: Path, out: Path, *flags: str) -> dict[str, Any]:
    """One step; the optimiser's first moment is then 0.1 x the gradient."""
    return _train(launcher, "base", out, "--photos", str(photos), "--photo_factors", "1.0", *flags)


def _train(launcher: list[str], stage: str, out: Path, *flags: str) -> dict[str, Any]:
    command = [sys.executable, "-m", *launcher, "train", "--out", str(out), "--patch", "64"]
    command += ["--steps", "1", "--workers", "0", "--precision", "no", "--tracker", "none"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *flags], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    stage = "qusr" if "qusr" in flags else stage
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
    start += ("--adversarial_weight", "0.1", "--adversarial_start", "0", "--adversarial_crop", "32")
    joint = _run(ALONE, photos, tmp_path / "joint", "--batch_size", "2", *start)
    spread = _run(TWO, photos, tmp_path / "spread", "--batch_size", "1", *start)
    _assert_same_gradients(joint, spread)
    _assert_same_gradients(joint["adversary"], spread["adversary"])


def test_sd21_is_spread_like_nano(tiny_sd21: Path, tiny_pairs: Path, tmp_path: Path) -> None:
    """SD 2.1's structure with all losses that need no other weights: LoRA and UEM get the joint batch's gradients."""
    settings = {**load_config_file("sd21"), "batch_size": 2, "lpips_weight": 0.0, "uem_channels": 4}
    for name in ("patch", "steps", "workers", "precision"):
        del settings[name]
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**settings, "init": str(tiny_sd21), "pairs": str(tiny_pairs)}))
    joint = _train(ALONE, "sd21", tmp_path / "joint", str(config))
    spread = _train(TWO, "sd21", tmp_path / "spread", str(config), "--batch_size", "1")
    moments = [[v["exp_avg"] for v in state["optimizer"]["state"].values()] for state in (joint, spread)]
    assert len(moments[0]) == len(moments[1]) > 500
    for one, other in zip(*moments, strict=True):  # float32 through VAE, UNet and VAE: about 1e-3 at worst
        assert (other - one).norm() < 5e-3 * one.norm() + 1e-9


def test_the_readmes_command_for_two_machines(photos: Path, tmp_path: Path) -> None:
    """`accelerate launch` with two machines of one process each, here on loopback: one run, a joint batch of two."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "2"]
    command += ["--num_processes", "2", "--main_process_ip", "127.0.0.1", "--main_process_port", port]
    training = ["-m", "qusr_train", "train", "--photos", str(photos), "--out", str(tmp_path), "--patch", "64"]
    training += ["--steps", "1", "--batch_size", "1", "--workers", "0", "--precision", "no", "--photo_factors", "1.0"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    machines = [
        subprocess.Popen([*command, "--machine_rank", rank, *training], cwd=ROOT, env=environment) for rank in "01"
    ]
    assert [machine.wait(240) for machine in machines] == [0, 0]
    (line,) = (tmp_path / "log.jsonl").read_text().splitlines()
    assert json.loads(line)["batch_size"] == 2
