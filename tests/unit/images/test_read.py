"""Picture files in and out: every mode read, nothing half written."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from qusr_train.images.check import ImageError
from qusr_train.images.read import open_rgb, picture_size, read_exact, read_image, read_rgb
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


WHITE = (0.9642, 1.0, 0.8249)  # D50


def _fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def _icc(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile of a class, from a colour space to the connection space."""
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78),
        b"wtpt": b"XYZ " + bytes(4) + _fixed(*WHITE),
        b"cprt": b"text" + bytes(4) + b"none\0",
        **tags,
    }
    table, body, place = b"", b"", 128 + 4 + 12 * len(tags)
    for tag, content in tags.items():
        table += tag + struct.pack(">II", place + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(">I4sI4s4s4s", place + len(body), b"none", 0x02100000, kind, space, connection)
    head += bytes(12) + b"acsp" + bytes(28) + _fixed(*WHITE) + bytes(48)
    return head + struct.pack(">I", len(tags)) + table + body


def _profile(*primaries: tuple[float, float, float]) -> bytes:
    """An ICC profile with gamma 2.2 and these primaries (XYZ, D50)."""
    tags = {}
    for channel, primary in zip((b"r", b"g", b"b"), primaries, strict=True):
        tags[channel + b"XYZ"] = b"XYZ " + bytes(4) + _fixed(*primary)
        tags[channel + b"TRC"] = b"curv" + bytes(4) + struct.pack(">IH", 1, round(2.2 * 256))
    return _icc(b"mntr", b"RGB ", b"XYZ ", tags)


def _print_profile(inks: dict[tuple[int, int, int, int], tuple[int, int, int]]) -> bytes:
    """An ICC profile of a CMYK printer: Lab (0 to 255 each) of the corners that `inks` names, white elsewhere."""
    identity = _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    ramp = bytes(range(256))
    corners = [(c, m, y, k) for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)]
    colours = b"".join(bytes(inks.get(corner, (255, 128, 128))) for corner in corners)
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + 4 * ramp + colours + 3 * ramp
    return _icc(b"prtr", b"CMYK", b"Lab ", {b"A2B0": table})


def test_embedded_profile_becomes_srgb(tmp_path: Path) -> None:
    red, green, blue = (0.4360, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)
    swapped = _profile(green, red, blue)  # what this profile calls red is sRGB's green
    picture = Image.new("RGBA", (2, 2), (255, 0, 0, 128))
    picture.save(tmp_path / "swapped.png", icc_profile=swapped)
    checked = read_image(tmp_path / "swapped.png")
    assert checked.rgb[0, :, 0, 0].tolist() == pytest.approx([0.0, 1.0, 0.0], abs=0.02)
    assert checked.alpha is not None
    assert checked.alpha.mean().item() == pytest.approx(128 / 255)
    assert open_rgb(tmp_path / "swapped.png").getpixel((0, 0))[1] > 250


def test_broken_profile_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.new("RGB", (2, 2), (255, 0, 0)).save(tmp_path / "odd.png", icc_profile=b"no profile")
    assert read_image(tmp_path / "odd.png").rgb[0, :, 0, 0].tolist() == [1.0, 0.0, 0.0]
    assert "odd.png: its colour profile is not usable" in caplog.text


def _png_16(path: Path, values: np.ndarray) -> None:
    """A colour PNG of 16 bits, which Pillow cannot write; values (H, W, 3 or 4) of uint16."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, channels = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


def _tiff_16(path: Path, values: np.ndarray) -> None:
    """A colour TIFF of 16 bits; values (H, W, 3 or 4) of uint16."""
    height, width, channels = values.shape
    body = np.full(channels, 16, "<u2").tobytes() + values.astype("<u2").tobytes()
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, channels, 8), (259, 3, 1, 1), (262, 3, 1, 2)]
    tags += [(273, 4, 1, 8 + 2 * channels), (277, 3, 1, channels), (278, 3, 1, height), (279, 4, 1, values.nbytes)]
    tags += [(338, 3, 1, 2)] if channels == 4 else []
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(body)) + body + directory)


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("write", [_png_16, _tiff_16])
def test_16_bit_colour_keeps_its_depth(tmp_path: Path, write: Callable[..., None], channels: int) -> None:
    values = (np.arange(2 * 3 * channels).reshape(2, 3, channels) * 1000 + 7).astype(np.uint16)
    write(tmp_path / "deep.png", values)
    checked = read_image(tmp_path / "deep.png")
    expected = torch.from_numpy(values[..., :3].astype(np.float32) / 65535.0).movedim(-1, 0)
    torch.testing.assert_close(checked.rgb[0], expected, atol=1e-7, rtol=0)
    assert (checked.alpha is not None) == (channels == 4)
    assert np.abs(np.asarray(open_rgb(tmp_path / "deep.png")) - values[..., :3] / 257.0).max() <= 0.5


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "print.jpg", quality=100)
    assert read_image(tmp_path / "print.jpg").rgb[0].mean((1, 2)).tolist() == pytest.approx([1.0, 0.0, 0.0], abs=0.02)


def test_cmyk_with_its_profile_becomes_what_the_printer_would_print(tmp_path: Path) -> None:
    profile = _print_profile({(0, 1, 1, 0): (118, 128, 230)})  # magenta and yellow: a dark yellow in this printer
    picture = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    picture.save(tmp_path / "print.tif", icc_profile=profile)
    red, green, blue = read_image(tmp_path / "print.tif").rgb[0].mean((1, 2)).tolist()
    assert red < 0.6
    assert green > 0.3
    assert blue < 0.2


def test_palette_with_a_profile_becomes_srgb(tmp_path: Path) -> None:
    red, green, blue = (0.4360, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)
    picture = Image.new("P", (2, 2))
    picture.putpalette([255, 0, 0])
    picture.save(tmp_path / "palette.png", icc_profile=_profile(green, red, blue))
    assert read_image(tmp_path / "palette.png").rgb[0, :, 0, 0].tolist() == pytest.approx([0.0, 1.0, 0.0], abs=0.02)


def test_float_tiff_keeps_its_depth_and_hdr_is_named(tmp_path: Path) -> None:
    tones = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    Image.fromarray(tones).save(tmp_path / "deep.tif")
    assert (read_image(tmp_path / "deep.tif").rgb[0, 0].numpy() == tones).all()
    Image.fromarray(tones * 30).save(tmp_path / "hdr.tif")
    with pytest.raises(ImageError, match=r"hdr\.tif.*HDR"):
        read_image(tmp_path / "hdr.tif")


def test_palette_keeps_colours_and_transparency(tmp_path: Path) -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.putpixel((1, 0), 1)
    picture.save(tmp_path / "palette.png", transparency=0)
    checked = read_image(tmp_path / "palette.png")
    assert (checked.rgb[0] * 255).round().byte().flatten(1).T.tolist() == [[10, 20, 30], [200, 100, 50]]
    assert checked.alpha is not None
    assert checked.alpha.flatten().tolist() == [0.0, 1.0]


def test_first_frame_of_an_animation_is_read_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "lime")]
    frames[0].save(tmp_path / "moving.png", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "moving.png").rgb[0, :, 0, 0].tolist() == [1.0, 0.0, 0.0]
    assert "moving.png: has 2 frames; only the first is read" in caplog.text


def test_all_ways_of_reading_agree(tmp_path: Path, write_image: WriteImage) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(write_image(tmp_path / "a.png", (5, 4), "RGB")) as opened:
        opened.save(tmp_path / "phone.png", exif=exif)
    path = tmp_path / "phone.png"
    rgb = read_rgb(path)
    width, height = picture_size(path)
    assert (height, width) == rgb.shape[1:]
    assert np.allclose(read_exact(path), rgb.movedim(0, -1).numpy(), atol=1e-7)
    assert np.array_equal(np.asarray(open_rgb(path)), (rgb * 255).round().byte().movedim(0, -1).numpy())
