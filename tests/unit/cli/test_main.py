"""Command line: files and folders in, exit codes and one-line errors out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qusr_train.checkpoints.nano_file import NanoCheckpoint, load_nano, save_nano
from qusr_train.cli.main import main
from qusr_train.images.read import read_image
from qusr_train.images.write import to_picture
from qusr_train.model.error_map import ErrorUEM
from qusr_train.model.noise import SPREADS
from qusr_train.presets import PRESETS
from qusr_train.restore import Restorer

WriteImage = Callable[..., Path]
Run = Callable[..., int]


@pytest.fixture
def restore(tiny_file: Path) -> Run:
    return lambda *arguments: main(["restore", *map(str, arguments), "--model", str(tiny_file)])


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as opened:
        return np.asarray(opened)


def _error(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_file_to_file(restore: Run, tmp_path: Path, write_image: WriteImage) -> None:
    source = write_image(tmp_path / "in.jpg", (6, 5))
    assert restore(source, tmp_path / "new" / "out.png") == 0
    assert _pixels(tmp_path / "new" / "out.png").shape == (20, 24, 3)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["out.png"]


def test_file_into_folder(restore: Run, tmp_path: Path, write_image: WriteImage) -> None:
    assert restore(write_image(tmp_path / "in.jpg", (6, 5)), tmp_path / "out") == 0
    assert _pixels(tmp_path / "out" / "in.png").shape == (20, 24, 3)


def test_folder_keeps_its_structure(restore: Run, tmp_path: Path, write_image: WriteImage) -> None:
    for name in ("a.png", "sub/a.jpg", "sub/b.webp"):
        write_image(tmp_path / "in" / name, (4, 3))
    assert restore(tmp_path / "in", tmp_path / "out") == 0
    written = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*"))
    assert written == ["a.png", "sub/a.png", "sub/b.png"]


def test_alpha_is_kept(restore: Run, tmp_path: Path) -> None:
    picture = Image.new("RGBA", (8, 6), (200, 100, 50, 255))
    picture.paste((200, 100, 50, 0), (0, 0, 4, 6))
    picture.save(tmp_path / "in.png")
    assert restore(tmp_path / "in.png", tmp_path / "out.png") == 0
    alpha = _pixels(tmp_path / "out.png")[..., 3]
    assert alpha.shape == (24, 32)
    assert alpha[:, :8].max() == 0
    assert alpha[:, -8:].min() == 255


def test_seed_and_prompt_reach_the_model(restore: Run, tmp_path: Path, write_image: WriteImage) -> None:
    source = write_image(tmp_path / "in.png", (16, 16))
    flags = {"plain": (), "again": ("--seed", 0), "seed": ("--seed", 7), "prompt": ("--prompt", "a blurry photo")}
    for name, values in flags.items():
        assert restore(source, tmp_path / f"{name}.png", *values) == 0
    plain, again, seed, prompt = (_pixels(tmp_path / f"{name}.png") for name in flags)
    assert np.array_equal(plain, again)
    assert not np.array_equal(plain, seed)
    assert not np.array_equal(plain, prompt)


def _error_model(path: Path, tiny_checkpoint: NanoCheckpoint) -> Path:
    """The tiny model with a map of errors."""
    uem = dict(ErrorUEM(2).state_dict())
    config = dataclasses.replace(tiny_checkpoint.config, uem="error")
    save_nano(path, dataclasses.replace(tiny_checkpoint, config=config, uem=uem))
    return path


def test_maps_of_a_folder_keep_its_structure(
    tiny_checkpoint: NanoCheckpoint, tmp_path: Path, write_image: WriteImage
) -> None:
    model = _error_model(tmp_path / "model.safetensors", tiny_checkpoint)
    for name in ("a.png", "sub/a.jpg"):
        write_image(tmp_path / "in" / name, (5, 3))
    flags = ["--model", str(model), "--maps", str(tmp_path / "maps")]
    assert main(["restore", str(tmp_path / "in"), str(tmp_path / "out"), *flags]) == 0
    written = sorted(p.relative_to(tmp_path / "maps").as_posix() for p in (tmp_path / "maps").rglob("*.*"))
    assert written == ["a.npy", "sub/a.npy"]
    values = np.load(tmp_path / "maps" / "sub" / "a.npy")
    assert values.dtype == np.float32
    assert values.shape == (12, 20)
    expected = Restorer(load_nano(model))(read_image(tmp_path / "in" / "sub" / "a.jpg").rgb).expected_error
    assert expected is not None
    assert np.array_equal(values, expected[0].numpy())


def test_map_of_one_file_is_named_like_its_output(
    tiny_checkpoint: NanoCheckpoint, tmp_path: Path, write_image: WriteImage
) -> None:
    model = _error_model(tmp_path / "model.safetensors", tiny_checkpoint)
    source = write_image(tmp_path / "in.png", (5, 3))
    flags = ["--model", str(model), "--maps", str(tmp_path / "maps")]
    assert main(["restore", str(source), str(tmp_path / "deep" / "out.png"), *flags]) == 0
    assert [p.name for p in (tmp_path / "maps").iterdir()] == ["out.npy"]


def test_maps_of_a_model_without_unit_are_refused(
    restore: Run, tmp_path: Path, write_image: WriteImage, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_image(tmp_path / "in.png")
    assert restore(source, tmp_path / "out.png", "--maps", tmp_path / "maps") == 2
    assert _error(capsys).startswith("error: --maps: the map of --model")
    assert not (tmp_path / "out.png").exists()
    assert not (tmp_path / "maps").exists()


def test_presets_and_spread_of_the_noise_reach_the_model(
    restore: Run, tiny_file: Path, tmp_path: Path, write_image: WriteImage
) -> None:
    source = write_image(tmp_path / "in.png", (16, 16))
    plain = Restorer(load_nano(tiny_file))
    for name, preset in PRESETS.items():
        assert restore(source, tmp_path / f"{name}.png", "--preset", name) == 0
        restorer = Restorer(load_nano(tiny_file), "cpu", preset.detail, preset.noise, residual=max(1, preset.residual))
        expected = restorer(read_image(source).rgb).image
        assert np.array_equal(_pixels(tmp_path / f"{name}.png"), np.array(to_picture(expected[0])))
    assert not np.array_equal(_pixels(tmp_path / "faithful.png"), _pixels(tmp_path / "crisp.png"))
    assert np.array_equal(
        _pixels(tmp_path / "balanced.png"), np.array(to_picture(plain(read_image(source).rgb).image[0]))
    )
    for spread in SPREADS:
        assert restore(source, tmp_path / f"{spread}.png", "--noise", spread) == 0
    assert np.array_equal(_pixels(tmp_path / "adaptive.png"), _pixels(tmp_path / "balanced.png"))
    assert not np.array_equal(_pixels(tmp_path / "uniform.png"), _pixels(tmp_path / "adaptive.png"))
    assert not np.array_equal(_pixels(tmp_path / "uniform.png"), _pixels(tmp_path / "none.png"))


def test_missing_input(restore: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert restore(tmp_path / "none.png", tmp_path / "out.png") == 2
    assert _error(capsys) == f"error: INPUT {tmp_path / 'none.png'}: no such file or folder"


def test_empty_folder(restore: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    assert restore(tmp_path / "in", tmp_path / "out") == 2
    assert "no images found" in _error(capsys)


@pytest.mark.parametrize("target", ["in.png", ".", "sub/../in.jpg"])
def test_input_is_never_overwritten(
    restore: Run, tmp_path: Path, write_image: WriteImage, capsys: pytest.CaptureFixture[str], target: str
) -> None:
    (tmp_path / "sub").mkdir()
    source = write_image(tmp_path / "in.png")
    before = source.read_bytes()
    assert restore(source, tmp_path / target) == 2
    assert "would overwrite an input" in _error(capsys)
    assert source.read_bytes() == before


def test_folder_onto_itself_is_refused(restore: Run, tmp_path: Path, write_image: WriteImage) -> None:
    before = write_image(tmp_path / "in" / "a.png").read_bytes()
    assert restore(tmp_path / "in", tmp_path / "in") == 2
    assert (tmp_path / "in" / "a.png").read_bytes() == before


def test_two_inputs_for_one_output_are_refused(
    restore: Run, tmp_path: Path, write_image: WriteImage, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.png", "a.jpg"):
        write_image(tmp_path / "in" / name)
    assert restore(tmp_path / "in", tmp_path / "out") == 2
    assert "several images would be written to" in _error(capsys)
    assert not (tmp_path / "out").exists()


def test_one_input_does_not_overwrite_another(restore: Run, tmp_path: Path, write_image: WriteImage) -> None:
    write_image(tmp_path / "in" / "a.png", (4, 4))
    before = write_image(tmp_path / "in" / "sub" / "a.png", (5, 5)).read_bytes()
    assert restore(tmp_path / "in", tmp_path / "in" / "sub") == 2
    assert (tmp_path / "in" / "sub" / "a.png").read_bytes() == before


def test_broken_image_fails_alone(
    restore: Run, tmp_path: Path, write_image: WriteImage, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.png", "c.png"):
        write_image(tmp_path / "in" / name, (4, 3))
    (tmp_path / "in" / "b.png").write_bytes(b"not a picture")
    assert restore(tmp_path / "in", tmp_path / "out") == 1
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.png", "c.png"]
    shown = capsys.readouterr()
    assert "b.png: cannot be read as an image" in shown.err
    assert "2 images restored" in shown.out
    assert "1 failed" in shown.out


def test_missing_model_is_named(tmp_path: Path, write_image: WriteImage, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_image(tmp_path / "in.png")
    assert main(["restore", str(source), str(tmp_path / "out.png"), "--model", str(tmp_path / "no.safetensors")]) == 2
    assert "no.safetensors: not found" in _error(capsys)
