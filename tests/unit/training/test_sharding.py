"""Frozen weights spread over two gloo processes (FSDP2): half of them on each, and the same training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from qusr_train.training.config import TrainConfig, load_config_file
from qusr_train.training.loop import train

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import os, sys
from qusr_train.training.config import TrainConfig, load_config_file
from qusr_train.training.sd21 import SD21Task
from qusr_train.training.loop import train
config = TrainConfig.from_mapping(load_config_file(sys.argv[1]))
task = SD21Task(config)
train(config, task)
frozen = [p for p in task.model.unet.parameters() if not p.requires_grad]
share = sum(p.to_local().numel() for p in frozen) / sum(p.numel() for p in frozen)
whole = all(type(p) is not type(frozen[0]) for p in task.model.parameters() if p.requires_grad)
with open(config.out + '/share' + os.environ['RANK'], "w") as file:
    file.write(f"{share} {whole}")
"""


def _config(init: Path, pairs: Path, out: Path, **changes: object) -> dict[str, object]:
    tiny = {"batch_size": 1, "patch": 64, "steps": 1, "workers": 0, "precision": "no", "lpips_weight": 0.0}
    tiny |= {"uem_channels": 4, "tracker": "none", "sample_every": 0}
    return {**load_config_file("sd21_fsdp"), **tiny, "init": str(init), "pairs": str(pairs), "out": str(out), **changes}


def test_recipe_is_sd21s() -> None:
    assert load_config_file("sd21_fsdp") == {**load_config_file("sd21"), "shard": True}


def test_two_processes_hold_half_each_and_train_the_same(tiny_sd21: Path, tiny_pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "config.json").write_text(json.dumps(_config(tiny_sd21, tiny_pairs, tmp_path / "spread")))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, str(tmp_path / "program.py"), str(tmp_path / "config.json")],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in (0, 1):
        share, whole = (tmp_path / "spread" / f"share{rank}").read_text().split()
        assert 0.45 < float(share) < 0.55  # rows of a weight are not always even
        assert whole == "True"
    alone = _config(tiny_sd21, tiny_pairs, tmp_path / "joint", batch_size=2, shard=False)
    train(TrainConfig.from_mapping(alone))
    joint, spread = (torch.load(tmp_path / name / "sd21.state.pt", weights_only=True) for name in ("joint", "spread"))
    assert joint["model"].keys() == spread["model"].keys()
    moments = [[v["exp_avg"] for v in state["optimizer"]["state"].values()] for state in (joint, spread)]
    assert len(moments[0]) == len(moments[1]) > 500
    for one, other in zip(*moments, strict=True):  # float32 through VAE, UNet and VAE: about 1e-3 at worst
        assert (other - one).norm() < 5e-3 * one.norm() + 1e-9


def test_one_process_is_refused(tiny_sd21: Path, tiny_pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shard: needs several processes; start with accelerate launch"):
        train(TrainConfig.from_mapping(_config(tiny_sd21, tiny_pairs, tmp_path)))
    with pytest.raises(ValueError, match="shard: only for stage `sd21`"):
        TrainConfig(photos="x", out="y", shard=True)
