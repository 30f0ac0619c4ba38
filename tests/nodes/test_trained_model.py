"""Train, validate, take the best checkpoint, restore, evaluate, load it in ComfyUI: one picture all along."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from qusr_train.checkpoints.load import load_checkpoint
from qusr_train.cli.main import main
from qusr_train.images.read import read_rgb
from tests.support import golden
from tests.support.diffusers_model import golden_folder

pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
SIDE, SMALL = 128, 32
TINY = (
    "--patch 64 --batch_size 1 --accumulation 1 --steps 4 --learning_rate 0.001 --lpips_weight 0 --precision no "
    "--workers 0 --uem_channels 4 --tracker none --sample_every 0 --no-gradient_checkpointing"
)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Two pairs of 32 and 128 pixels with the prompt that the golden text encoder knows."""
    folder = tmp_path / "pairs"
    whole = Image.open(golden.GOLDEN / "runs" / "qusr_128_lq.png").convert("RGB")
    for name, turned in (("a", whole), ("b", whole.transpose(Image.Transpose.FLIP_LEFT_RIGHT))):
        for part, size in (("hr", SIDE), ("lr", SMALL)):
            (folder / part).mkdir(parents=True, exist_ok=True)
            turned.resize((size, size), Image.Resampling.BICUBIC).save(folder / part / f"{name}.png")
    prompt = golden.run("qusr_128").about["prompt"]
    (folder / "captions.json").write_text(json.dumps({"a": prompt, "b": prompt}), encoding="utf-8")
    return folder


def test_one_picture_from_training_to_comfyui(
    node: Any, upscale: Any, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, out, results = golden_folder(tmp_path / "base"), tmp_path / "run", tmp_path / "results"
    train = ["train", "sd21", "--pairs", str(pairs), "--init", str(base), "--out", str(out), "--prompts", "files"]
    train += shlex.split(TINY)
    train += ["--validate", str(pairs), "--validate_every", "2", "--best", "psnr"]
    assert main(train) == 0
    lines = [json.loads(line) for line in (out / "sd21.validation.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    best = max(lines, key=lambda line: line["psnr"])
    (kept,) = (out / "best").iterdir()
    assert kept.name == f"sd21-{best['step']:07d}.safetensors"
    assert max(layer.delta().abs().max().item() for layer in load_checkpoint(kept).lora.values()) > 1e-4, "it learned"

    restore = ["restore", str(pairs / "lr"), str(results), "--model", str(kept), "--base", str(base)]
    assert main([*restore, "--captions", str(pairs / "captions.json")]) == 0
    report = tmp_path / "report.json"
    assert main(["evaluate", "--pred", str(results), "--gt", str(pairs / "hr"), "--json", str(report)]) == 0
    mean = json.loads(report.read_text())["mean"]
    # The run has its weights in float32, the file in half precision.
    assert mean["psnr"] == pytest.approx(best["psnr"], abs=0.02)
    assert mean["ssim"] == pytest.approx(best["ssim"], abs=1e-3)

    import folder_paths

    models = tmp_path / "models"
    models.mkdir()
    shutil.copy(kept, models / "trained.safetensors")
    suffixes = folder_paths.folder_names_and_paths["qusr"][1]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "qusr", ([str(models)], suffixes))
    folder_paths.filename_list_cache.pop("qusr", None)
    model, uem, vae = node.QUSRLoader.execute(
        golden.golden_unet(), "trained.safetensors", 1.0, 1.0, 1.0, golden.golden_vae()
    ).args
    clip, prompt = golden.golden_clip(), golden.run("qusr_128").about["prompt"]
    for name in ("a", "b"):
        image = read_rgb(pairs / "lr" / f"{name}.png")[None].movedim(1, -1)
        there = upscale(image, model=model, clip=clip, vae=vae, uem=uem, prompt=prompt, seed=0)[0]
        here = torch.from_numpy(np.asarray(Image.open(results / f"{name}.png").convert("RGB")).copy()) / 255
        assert (there[0] - here).abs().max() < 0.51 / 255 + 1e-4, "equal but for the file's 8 bits"
