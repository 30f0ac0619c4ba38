"""Picture files of any content never stop a folder (issue 16, items 5, 6 and 15)."""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from qusr_train.cli.main import main
from qusr_train.images import memory
from qusr_train.images.check import ImageError
from qusr_train.images.read import open_rgb, picture_size, read_exact, read_image, read_rgb
from tests.attacks.memory import little_memory
from tests.attacks.size import examples

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _png(*chunks: bytes, size: tuple[int, int] = (8, 8)) -> bytes:
    header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + bytes(3 * min(size[0], 10_000)) for _ in range(min(size[1], 64))))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [_chunk(b"IHDR", header), *chunks, _chunk(b"IDAT", rows), _chunk(b"IEND", b"")]
    )


def bombs() -> dict[str, bytes]:
    text = zlib.compress(bytes(100_000_000), 9)
    return {
        "zTXt.png": _png(_chunk(b"zTXt", b"Comment\0\0" + text)),
        "iCCP.png": _png(_chunk(b"iCCP", b"x\0\0" + text)),
        "iTXt.png": _png(_chunk(b"iTXt", b"x\0\1\0\0\0" + text)),
        "wide.png": _png(size=(2**31 - 1, 1)),
        "huge.png": _png(size=(60_000, 60_000)),
        "short.png": _png(size=(100, 100)),
        "zero.png": _png(size=(0, 8)),
        "empty.jpg": b"",
        "text.webp": b"RIFF\xff\xff\xff\xffWEBPVP8X",
        "exif.png": _png(_chunk(b"eXIf", b"II*\0\x08\0\0\0\xff\xff" + b"\xff" * 200)),
    }


def test_bombs_are_errors_that_name_the_file(tmp_path: Path) -> None:
    for name, content in bombs().items():
        path = tmp_path / name
        path.write_bytes(content)
        for read in (read_image, read_rgb, read_exact, open_rgb, picture_size):
            try:
                with little_memory(600):
                    read(path)
            except ImageError as error:
                assert str(path) in str(error)  # noqa: PT017 (one of the two outcomes)
                assert len(str(error)) < 500 + len(str(path))  # noqa: PT017


@pytest.mark.parametrize("seed", range(examples(1000, 40)))
def test_damaged_pictures_are_read_or_named(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    kind = FORMATS[seed % len(FORMATS)]
    buffer = io.BytesIO()
    mode = chance.choice(["RGB", "L", "CMYK", "P", "RGBA", "1", "I;16"])
    mode = mode if kind == "TIFF" or (kind == "JPEG" and mode in ("L", "CMYK")) else "RGB"
    picture = Image.fromarray(np.random.default_rng(seed).integers(0, 255, (24, 20, 3), dtype=np.uint8))
    (picture.convert("I").convert(mode) if mode == "I;16" else picture.convert(mode)).save(buffer, kind)
    content = bytearray(buffer.getvalue())
    for _ in range(chance.choice([0, 1, 5, 50])):
        content[chance.randrange(len(content))] = chance.randrange(256)
    if chance.random() < 0.3:
        del content[chance.randrange(len(content)) :]
    path = tmp_path / f"picture.{kind.lower()}"
    path.write_bytes(content)
    for read in (read_image, read_exact, open_rgb, picture_size):
        try:
            with little_memory(600):
                result = read(path)
        except ImageError as error:
            assert str(path) in str(error)  # noqa: PT017 (one of the two outcomes)
        else:
            values = torch.as_tensor(np.asarray(result.rgb if hasattr(result, "rgb") else result), dtype=torch.float64)
            assert torch.isfinite(values).all()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two good pictures with every bomb between them."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, content in bombs().items():
        (folder / name).write_bytes(content)
    for name in ("0.png", "zz.png"):
        Image.effect_noise((16, 16), 40).convert("RGB").save(folder / name)
    return folder


def test_a_folder_with_bombs_is_restored_to_its_end(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["restore", str(photos), str(tmp_path / "out")]) == 1
    assert {"0.png", "zz.png"} <= {path.name for path in (tmp_path / "out").iterdir()}
    told = capsys.readouterr()
    for name in ("wide.png", "huge.png", "zero.png", "empty.jpg", "text.webp"):
        assert f"{photos / name}" in told.err


def test_a_picture_that_does_not_fit_the_memory_is_named(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """12000 x 12000 would take hundreds of gigabytes, and Linux would kill the process instead of saying no."""
    for path in photos.iterdir():
        path.unlink() if path.name != "0.png" else None
    Image.new("RGB", (600, 600)).save(photos / "large.png")
    monkeypatch.setattr(memory, "available_memory", lambda: 300_000_000)
    assert main(["restore", str(photos), str(tmp_path / "out")]) == 1
    told = capsys.readouterr()
    assert "large.png: a result of 2400 x 2400 pixels needs about 0.7 GB of memory, but 0.3 GB are free" in told.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["0.png"]


def test_available_memory_is_known_on_linux() -> None:
    found = memory.available_memory()
    assert found is None or 10_000_000 < found < 2**50


def test_output_inside_input_is_refused(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for target in (photos / "out", photos):
        assert main(["restore", str(photos), str(target)]) == 2
        assert "is inside INPUT" in capsys.readouterr().err or target == photos


def test_a_prompt_that_is_no_text_is_named(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["restore", str(photos / "0.png"), str(tmp_path / "x.png"), "--prompt", "a\udcff"]) == 2
    assert "--prompt: expected a text" in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()
