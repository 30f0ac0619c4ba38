"""Command line: files and folders in, exit codes and one-line errors out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qusr_train.cli.main import main

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
