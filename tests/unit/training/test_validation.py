"""Train -> validate -> best checkpoint -> restore -> evaluate: one picture all along; going on from a file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from qusr_train.checkpoints.load import load_checkpoint
from qusr_train.checkpoints.qusr_file import load_qusr
from qusr_train.cli.main import main
from qusr_train.model.lora import merge
from qusr_train.model.stable_diffusion import load_stable_diffusion
from qusr_train.training.config import TrainConfig, load_config_file
from qusr_train.training.loop import train
from qusr_train.training.sd21 import SD21Task
from tests.support.diffusers_model import GOLDEN, golden_folder

pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return golden_folder(tmp_path_factory.mktemp("golden") / "model")


def _settings(base: Path, pairs: Path, out: Path, **changes: Any) -> TrainConfig:
    tiny = {"batch_size": 1, "patch": 64, "workers": 0, "precision": "no", "learning_rate": 1e-3, "steps": 4}
    tiny |= {"lpips_weight": 0.0, "uem_channels": 4, "sample_every": 0, "log_every": 1, "tracker": "none"}
    where = {"stage": "sd21", "init": str(base), "pairs": str(pairs), "out": str(out)}
    return TrainConfig.from_mapping({**tiny, **where, **changes})


@pytest.fixture(scope="module")
def run(base: Path, tiny_pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that was validated at steps 2 and 4."""
    out = tmp_path_factory.mktemp("run")
    train(_settings(base, tiny_pairs, out, validate=str(tiny_pairs), validate_every=2, ema=0.5))
    return out


def _lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "sd21.validation.jsonl").read_text().splitlines()]


def test_best_checkpoint_restores_what_was_validated(run: Path, base: Path, tiny_pairs: Path, tmp_path: Path) -> None:
    lines = _lines(run)
    assert [line["step"] for line in lines] == [2, 4]
    best = max(lines, key=lambda line: line["psnr"])
    (kept,) = (run / "best").iterdir()
    assert kept.name == f"sd21-{best['step']:07d}.safetensors"
    assert main(
        ["restore", str(tiny_pairs / "lr"), str(tmp_path / "out"), "--model", str(kept), "--base", str(base)]
    ) == 0  # fmt: skip
    report = tmp_path / "report.json"
    assert (
        main(["evaluate", "--pred", str(tmp_path / "out"), "--gt", str(tiny_pairs / "hr"), "--json", str(report)]) == 0
    )
    mean = json.loads(report.read_text())["mean"]
    # The file holds half-precision weights, the run has them in float32.
    assert mean["psnr"] == pytest.approx(best["psnr"], abs=0.02)
    assert mean["ssim"] == pytest.approx(best["ssim"], abs=1e-3)
    if best["step"] == 4:
        for path in (tmp_path / "out").iterdir():
            pixels = [list(Image.open(p).getdata()) for p in (path, run / "validation" / path.name)]
            assert max(abs(a - b) for x, y in zip(*pixels, strict=True) for a, b in zip(x, y, strict=True)) <= 2


def test_recipe_travels_with_the_model(run: Path, base: Path) -> None:
    about = load_qusr(run / "sd21.safetensors").training["sd21"]
    assert about["settings"]["rank"] == 4
    assert about["settings"]["noise_variant"] == "reference"
    assert about["settings"]["init"] == base.name  # no paths of this machine
    assert "torch" in about["versions"]
    assert about["data"]["pictures"] == 6
    assert len(about["data"]["digest"]) == 16
    card = (run / "README.md").read_text()
    assert "restore photo.jpg large.png --model sd21.safetensors --base" in card
    assert f"| psnr | {max(line['psnr'] for line in _lines(run))} |" in card
    assert str(base.parent) not in card
    assert {p.name for p in (run / "samples").iterdir()} == {
        "sd21-validation-0000002.png", "sd21-validation-0000004.png",
    }  # fmt: skip


def test_learning_rate_and_steps_may_change_on_resume(
    run: Path, base: Path, tiny_pairs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = _settings(base, tiny_pairs, run, ema=0.5, learning_rate=5e-4, steps=5)
    with caplog.at_level("INFO"):
        train(config)
    assert "learning_rate: 0.001 until step 4, 0.0005 from now on" in caplog.text
    assert "steps: 4 until step 4, 5 from now on" in caplog.text
    with pytest.raises(ValueError, match=r"other settings \(rank\)"):
        train(dataclasses.replace(config, rank=8))


@pytest.mark.parametrize("kind", ["ours", "authors"])
def test_goes_on_from_a_file(run: Path, base: Path, tiny_pairs: Path, tmp_path: Path, kind: str) -> None:
    path = run / "sd21.safetensors" if kind == "ours" else GOLDEN / "checkpoints" / "qusr.pkl"
    start = load_checkpoint(path)
    config = _settings(
        base, tiny_pairs, tmp_path, init_checkpoint=str(path), uem_channels=start.hidden_channels, steps=1,
        rank=max(layer.down.shape[0] for layer in start.lora.values()),
    )  # fmt: skip
    task = SD21Task(config)
    merged = load_stable_diffusion(base).unet
    merge(merged, start.lora)
    z, t, text = torch.randn(1, 4, 8, 8), torch.tensor([1]), torch.randn(1, 77, 32)
    with torch.no_grad():
        ours = task.base.unet(z, t, encoder_hidden_states=text).sample
        theirs = merged(z, t, encoder_hidden_states=text).sample
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    for name, value in start.uem.items():
        assert torch.equal(task.model.uem.state_dict()[name], value)


def test_files_that_do_not_fit_are_named(base: Path, tiny_pairs: Path, tmp_path: Path) -> None:
    path = GOLDEN / "checkpoints" / "osediff.pkl"
    with pytest.raises(ValueError, match=r"init_checkpoint .*osediff\.pkl: is a osediff file; give one of QUSR"):
        SD21Task(_settings(base, tiny_pairs, tmp_path, init_checkpoint=str(path)))
    with pytest.raises(ValueError, match="its LoRA has rank 4, but the setting is 2"):
        SD21Task(
            _settings(base, tiny_pairs, tmp_path, init_checkpoint=str(GOLDEN / "checkpoints" / "qusr.pkl"), rank=2)
        )


def test_unknown_best_metric_is_named(base: Path, tiny_pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="best: expected one of psnr, ssim, but got vmaf"):
        train(_settings(base, tiny_pairs, tmp_path, validate=str(tiny_pairs), best="vmaf"))


def test_lora_is_read_by_diffusers(base: Path, tmp_path: Path) -> None:
    """The very UNet with the exported adapter gives what the merged one gives."""
    from safetensors.torch import load_file

    source, target = GOLDEN / "checkpoints" / "qusr.pkl", tmp_path / "lora.safetensors"
    assert main(["export", str(source), str(target)]) == 0
    read, merged = load_stable_diffusion(base).unet, load_stable_diffusion(base).unet
    merge(merged, load_checkpoint(source).lora)
    read.load_lora_adapter(load_file(target), prefix="unet")
    z, t, text = torch.randn(1, 4, 8, 8), torch.tensor([1]), torch.randn(1, 77, 32)
    with torch.no_grad():
        plain = load_stable_diffusion(base).unet(z, t, encoder_hidden_states=text).sample
        theirs = read(z, t, encoder_hidden_states=text).sample
        ours = merged(z, t, encoder_hidden_states=text).sample
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=1e-4)
    assert (plain - ours).abs().max() > 1e-2


def test_defaults_of_the_stage_are_not_nanos() -> None:
    config = TrainConfig.from_mapping({"stage": "sd21", "init": "x", "photos": "y", "out": "z"})
    assert (config.patch, config.learning_rate, config.ema, config.noise_variant) == (512, 3e-5, 0.0, "reference")
    assert (config.degradation, config.upright, config.batch_size * config.accumulation) == ("authors", True, 16)
    paper = TrainConfig.from_mapping({**load_config_file("sd21_paper"), "init": "x", "photos": "y", "out": "z"})
    assert (paper.noise_variant, paper.degradation) == ("paper", "second_order")
