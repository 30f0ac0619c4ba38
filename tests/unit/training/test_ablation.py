"""The ablation: four variants that differ in what they should, trained and compared by one command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from torch import Tensor

from qusr_train.checkpoints.nano_file import load_nano
from qusr_train.cli.main import main
from qusr_train.training.ablation import VARIANTS, variant_config
from qusr_train.training.config import TrainConfig

pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`")


def test_variants_differ_in_prompts_and_noise_only(tmp_path: Path) -> None:
    config = TrainConfig("photos", "out", stage="qusr", init="x.safetensors")
    made = {name: variant_config(config, *switches, tmp_path) for name, switches in VARIANTS.items()}
    assert {name: (c.prompts, c.noise_p) for name, c in made.items()} == {
        "neither": ("empty", 0.0),
        "quality prior": ("measured", 0.0),
        "uncertainty noise": ("empty", 0.5),
        "both (QUSR)": ("measured", 0.5),
    }


def test_one_command_trains_and_compares(
    tmp_path: Path, tiny_file: Path, texture: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = Image.fromarray((texture[0] * 255).byte().permute(1, 2, 0).numpy())
    for folder, size in (("photos", 96), ("eval/hr", 64), ("eval/lr", 16)):
        (tmp_path / folder).mkdir(parents=True)
        photo.resize((size, size), Image.Resampling.BOX).save(tmp_path / folder / "a.png")
    flags = ["--photos", str(tmp_path / "photos"), "--out", str(tmp_path / "out"), "--eval", str(tmp_path / "eval")]
    flags += ["--stage", "qusr", "--init", str(tiny_file), "--steps", "1", "--patch", "64", "--batch_size", "1"]
    flags += ["--workers", "0", "--precision", "no", "--photo_factors", "1.0", "--tracker", "none"]
    assert main(["ablation", *flags]) == 0
    table = capsys.readouterr().out
    assert all(f"| {name} | 1 |" in table for name in VARIANTS)
    assert json.loads((tmp_path / "out" / "ablation.json").read_text())["methods"].keys() == VARIANTS.keys()
    noises = {name: load_nano(tmp_path / "out" / name / "qusr.safetensors").noise.p for name in ("neither", "both")}
    assert noises == {"neither": 0.0, "both": 0.5}
