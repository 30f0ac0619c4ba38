"""Restoring with QUSR, PiSA-SR and OSEDiff without ComfyUI: the reference's own tensors and pictures."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from qusr_train.cli.main import main
from qusr_train.errors import RunError
from qusr_train.images import memory
from qusr_train.images.check import ImageError
from qusr_train.images.read import read_image
from qusr_train.restore_sd21 import SD21Restorer, Tiles, load_sd21_restorer
from tests.support.diffusers_model import GOLDEN, golden_folder

CHECKPOINTS, RUNS = GOLDEN / "checkpoints", GOLDEN / "runs"
SEED = 42  # of all golden runs


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return golden_folder(tmp_path_factory.mktemp("golden") / "model")


def _prompt(run: str) -> str:
    with safe_open(RUNS / f"{run}.safetensors", "pt") as file:
        return (file.metadata() or {})["prompt"]


def _as_the_authors(base: Path, name: str, pixel: float = 1.0, semantic: float = 1.0) -> SD21Restorer:
    """A sampled posterior, the enlarged picture itself, no colour fix."""
    restorer = load_sd21_restorer(CHECKPOINTS / f"{name}.pkl", base, pixel=pixel, semantic=semantic)
    return dataclasses.replace(restorer, scale=1.0, posterior="sample", color_fix="none")


@pytest.mark.parametrize(
    ("name", "run", "picture", "prompt", "strengths"),
    [
        ("qusr", "qusr_128", "qusr_128", None, {}),
        ("qusr", "qusr_192x128_tiled", "qusr_192x128_tiled", None, {}),
        ("pisa_sr", "pisa_sr_128_default", "qusr_128", "", {}),
        ("pisa_sr", "pisa_sr_128_pix0.8_sem1.3", "qusr_128", "", {"pixel": 0.8, "semantic": 1.3}),
        ("osediff", "osediff_128", "qusr_128", "a photo", {}),
    ],
)
def test_image_is_the_references(
    base: Path, name: str, run: str, picture: str, prompt: str | None, strengths: dict[str, float]
) -> None:
    """From the picture and the seed alone: the draws are those of the reference, too."""
    expected = load_file(RUNS / f"{run}.safetensors")
    restorer = _as_the_authors(base, name, **strengths)
    if "tiled" in run:
        restorer = dataclasses.replace(restorer, tiles=Tiles(latent=16, overlap=8))
    image = read_image(RUNS / f"{picture}_lq.png").rgb
    result = restorer(image, _prompt(run) if prompt is None else prompt, SEED)
    wanted = (expected["image"] if "image" in expected else expected["decoded_raw"]).clamp(-1, 1)
    torch.testing.assert_close(result.image, (wanted + 1) / 2, atol=1e-4, rtol=0)
    if name == "qusr":
        assert result.uncertainty is not None
        torch.testing.assert_close(result.uncertainty, expected["U"], atol=1e-4, rtol=0)
    else:
        assert result.uncertainty is None


@pytest.mark.parametrize("fix", ["adain", "wavelet", "none"])
def test_command_gives_the_golden_picture(base: Path, tmp_path: Path, fix: str) -> None:
    """The reference truncates to 8 bits before it fixes the colours, so a level of difference is its own."""
    flags = ["--model", str(CHECKPOINTS / "qusr.pkl"), "--base", str(base), "--upscale", "1", "--seed", str(SEED)]
    flags += ["--posterior", "sample", "--color_fix", fix, "--prompt", _prompt("qusr_128")]
    assert main(["restore", str(RUNS / "qusr_128_lq.png"), str(tmp_path / "out.png"), *flags]) == 0
    golden = RUNS / f"qusr_128_{'nofix' if fix == 'none' else fix}.png"
    ours, theirs = (np.asarray(Image.open(path).convert("RGB"), dtype=int) for path in (tmp_path / "out.png", golden))
    assert np.abs(ours - theirs).max() <= 2
    assert np.abs(ours - theirs).mean() < 0.6


def test_vae_tiles_change_nothing(base: Path) -> None:
    restorer = _as_the_authors(base, "qusr")
    image = read_image(RUNS / "qusr_128_lq.png").rgb
    whole = restorer(image, "", 3).image
    parts = []
    tiled = dataclasses.replace(restorer, tiles=Tiles(vae=64), each_tile=lambda: parts.append(1))
    torch.testing.assert_close(tiled(image, "", 3).image, whole, atol=5e-5, rtol=0)
    assert len(parts) > 100


@pytest.mark.parametrize("size", [(9, 5), (30, 21)])
def test_any_size_grows_four_times(base: Path, size: tuple[int, int]) -> None:
    restorer = load_sd21_restorer(CHECKPOINTS / "qusr.pkl", base)
    result = restorer(torch.rand(2, 3, *size))
    assert result.image.shape == result.bicubic.shape == (2, 3, 4 * size[0], 4 * size[1])
    assert len(result.prompts) == 2


def test_a_full_device_makes_the_tiles_smaller(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    restorer = load_sd21_restorer(CHECKPOINTS / "qusr.pkl", base)
    sides = []
    predict = SD21Restorer._predict

    def short(self: SD21Restorer, z: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        sides.append(max(z.shape[-2:]))
        if sides[-1] > 32:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return predict(self, z, context)

    monkeypatch.setattr(SD21Restorer, "_predict", short)
    assert restorer(torch.rand(1, 3, 32, 80), "").image.shape == (1, 3, 128, 320)
    assert sides[0] == 40
    assert set(sides[1:]) == {32}
    monkeypatch.setattr(SD21Restorer, "_predict", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # other errors are not taken for a full device
        restorer(torch.rand(1, 3, 8, 8), "")


def test_a_prompt_for_each_picture_of_a_folder(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.open(RUNS / "qusr_128_lq.png").crop((0, 0, 16, 16)).save(tmp_path / "in" / f"{name}.png")
    (tmp_path / "captions.json").write_text(json.dumps({"a.png": "a photo", "b": "noise"}))
    flags = ["--model", str(CHECKPOINTS / "qusr.pkl"), "--base", str(base)]
    flags += ["--captions", str(tmp_path / "captions.json")]
    assert main(["restore", str(tmp_path / "in"), str(tmp_path / "out"), *flags]) == 0
    assert (tmp_path / "out" / "a.png").read_bytes() != (tmp_path / "out" / "b.png").read_bytes()
    (tmp_path / "captions.json").write_text(json.dumps({"a.png": "a photo"}))
    capsys.readouterr()
    assert main(["restore", str(tmp_path / "in"), str(tmp_path / "out"), *flags]) == 2
    assert "1 images have no caption (b)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "{qusr}"], r"--base: .*qusr.pkl needs SD 2.1-base; give its folder"),
        (["--base", "{base}"], r"--base: nano is a nano model, which needs no SD 2.1-base"),
        (["--dtype", "float16"], r"--dtype: is for models on SD 2.1-base; give --base"),
        (["--model", "{qusr}", "--base", "{tmp}"], r"--base .*: expected SD 2.1-base in diffusers form, but unet"),
        (["--model", "{qusr}", "--base", "{qusr}"], r"--base .*qusr.pkl: holds no Stable Diffusion UNet"),
        (["--model", "{qusr}", "--base", "{base}", "--pixel", "0.5"], r"--pixel: only PiSA-SR files"),
        (["--model", "{tmp}/none.pkl"], r"none.pkl: not found"),
    ],
)
def test_what_does_not_fit_is_one_line(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    import re

    places = {"qusr": CHECKPOINTS / "qusr.pkl", "base": base, "tmp": tmp_path}
    given = [flag.format(**places) for flag in flags]
    assert main(["restore", str(RUNS / "qusr_128_lq.png"), str(tmp_path / "out.png"), *given]) == 2
    errors = [line for line in capsys.readouterr().err.strip().splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert re.search(message, errors[0]), errors[0]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("part", ["decoder", "uem", "denoiser"])
def test_a_result_that_is_no_number_is_refused(base: Path, part: str, value: float) -> None:
    """Also infinite pixels, which clamping would make white ones, and a map that is shown and not used."""
    restorer = load_sd21_restorer(CHECKPOINTS / "qusr.pkl", base)
    assert restorer.uem is not None
    if part == "uem":
        restorer.noise = dataclasses.replace(restorer.noise, p=0.0)
    layer = {
        "decoder": restorer.base.vae.decoder.conv_out,
        "uem": restorer.uem.decoder[-1],
        "denoiser": restorer.base.unet.conv_out,
    }[part]
    layer.bias.data.fill_(value)
    with pytest.raises(RunError, match="NaN or infinite values"):
        restorer(torch.rand(1, 3, 16, 16), "a photo")


def test_a_picture_that_does_not_fit_the_memory_is_refused(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """12000 x 12000 would fill the machine, and Linux would end the process with the rest of the folder undone."""
    restorer = load_sd21_restorer(CHECKPOINTS / "qusr.pkl", base)
    monkeypatch.setattr(memory, "available_memory", lambda: 10_000_000)
    with pytest.raises(ImageError, match=r"a result of 2400 x 2400 pixels needs about .* GB are free"):
        restorer(torch.rand(1, 3, 600, 600), "a photo")
