"""Picture files in and out: every mode read, nothing half written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from qusr_train.images.check import ImageError
from qusr_train.images.read import read_image
from qusr_train.images.write import write_png

WriteImage = Callable[..., Path]


@pytest.mark.parametrize(("mode", "alpha"), [("L", False), ("RGB", False), ("RGBA", True), ("LA", True)])
def test_png_comes_back_as_written(tmp_path: Path, write_image: WriteImage, mode: str, alpha: bool) -> None:
    path = write_image(tmp_path / "a.png", (5, 4), mode)
    checked = read_image(path)
    write_png(tmp_path / "b.png", checked.rgb[0], None if checked.alpha is None else checked.alpha[0])
    with Image.open(path) as one, Image.open(tmp_path / "b.png") as other:
        assert other.mode == ("RGBA" if alpha else "RGB")
        assert np.array_equal(np.asarray(one.convert(other.mode)), np.asarray(other))


def test_16_bit_grey_keeps_its_range(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 65535, 13107]], np.uint16)).save(tmp_path / "deep.png")
    assert read_image(tmp_path / "deep.png").rgb[0, 0].flatten().tolist() == pytest.approx([0.0, 1.0, 0.2])


def test_camera_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right by 90 degrees to view
    Image.new("RGB", (8, 4)).save(tmp_path / "phone.jpg", exif=exif)
    assert read_image(tmp_path / "phone.jpg").rgb.shape == (1, 3, 8, 4)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_broken_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(ImageError, match=r"bad\.png: cannot be read as an image"):
        read_image(tmp_path / "bad.png")


def test_float_picture_is_not_black(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 3), 0.5, np.float32)).save(tmp_path / "float.tif")
    assert read_image(tmp_path / "float.tif").rgb.mean().item() == pytest.approx(0.5)


def test_failed_writing_leaves_no_part(tmp_path: Path) -> None:
    (tmp_path / "out.png").mkdir()
    with pytest.raises(OSError):
        write_png(tmp_path / "out.png", torch.rand(3, 2, 2))
    assert [p.name for p in tmp_path.iterdir()] == ["out.png"]
