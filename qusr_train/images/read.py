"""The one reader of picture files: upright, in sRGB, with its alpha, at its own depth."""

from __future__ import annotations

import io
import logging
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps
from torch import Tensor

from ..files import is_regular
from .check import CheckedImage, ImageError, check_image

log = logging.getLogger(__name__)

UNREADABLE = (Exception,)
"""What Pillow's many readers raise on a file that is no picture, or a damaged one: almost anything."""
_ORIENTATION = 0x0112
_BITS_PER_SAMPLE = 0x0102
_SWAPPED = (5, 6, 7, 8)
"""Orientations that lay the picture on its side."""


def read_image(path: str | os.PathLike[str]) -> CheckedImage:
    """Read a picture as (1, 3, H, W) in [0, 1] with its alpha. Raises ImageError: not a readable picture."""
    values, white = _decode(Path(path))
    array = values.astype(np.float32) / np.float32(white)
    return check_image(torch.from_numpy(array)[None], str(path))


def read_rgb(path: str | os.PathLike[str]) -> Tensor:
    """Read a picture as (3, H, W) in [0, 1], without its alpha. Raises ImageError: not a readable picture."""
    return read_image(path).rgb[0]


def read_exact(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a picture as (H, W, 3), float64 in [0, 1], for metrics. Raises ImageError: not a readable picture."""
    values, white = _decode(Path(path))
    rgb = values[..., :3] if values.shape[-1] >= 3 else values.repeat(3, -1)
    return rgb.astype(np.float64) / white


def open_rgb(path: str | os.PathLike[str]) -> Image.Image:
    """Read a picture as Pillow's RGB with 8 bits, for resizing. Raises ImageError: not a readable picture."""
    values, white = _decode(Path(path))
    rgb = values[..., :3] if values.shape[-1] >= 3 else values.repeat(3, -1)
    if rgb.dtype != np.uint8:
        rgb = (rgb.astype(np.float32).clip(0, white) * (255.0 / white)).round().astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(rgb))


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height of the upright picture, from its header. Raises ImageError: not a picture."""
    _refuse_no_file(path)
    try:
        with Image.open(path) as opened:
            width, height = opened.size
            return (height, width) if opened.getexif().get(_ORIENTATION) in _SWAPPED else (width, height)
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


def _refuse_no_file(path: Path) -> None:
    """A pipe or a device has no end; Pillow would wait for it, or read it all."""
    if path.exists() and not is_regular(path):
        raise ImageError(f"{path}: is a folder, a pipe or a device, not a file")


def _unreadable(path: Path, error: Exception) -> ImageError:
    if isinstance(error, MemoryError):
        return ImageError(f"{path}: is too large for this machine's memory; make it smaller or cut it into parts")
    return ImageError(f"{path}: cannot be read as an image ({str(error)[:300] or type(error).__name__})")


def _decode(path: Path) -> tuple[np.ndarray, float]:
    """Values (H, W, C) as they are stored, C = 1, 3 or 4, and which value is white."""
    _refuse_no_file(path)
    try:
        with Image.open(path) as opened:
            if getattr(opened, "n_frames", 1) > 1 and opened.format != "MPO":  # a phone's MPO is one photo
                log.warning("%s: has %d frames; only the first is read", path, getattr(opened, "n_frames", 1))
            plain = not opened.info.get("icc_profile") and opened.getexif().get(_ORIENTATION, 1) == 1
            if plain and _has_16_bits(opened, path):
                return _read_16_bits(path), 65535.0
            picture = ImageOps.exif_transpose(opened)
            if picture.mode.startswith("I"):
                return np.array(picture, dtype=np.float32)[..., None], 65535.0
            if picture.mode == "F":  # float TIFF, by convention in [0, 1]
                return np.array(picture, dtype=np.float32)[..., None], 1.0
            return np.array(_in_srgb(picture, path)), 255.0
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


def _in_srgb(picture: Image.Image, path: Path) -> Image.Image:
    """RGB or RGBA with 8 bits; the colours of an embedded profile (CMYK, Display P3 ...) turned into sRGB's."""
    has_alpha = picture.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info
    rgba = picture.convert("RGBA") if has_alpha else None
    color = picture.convert("RGB") if picture.mode not in ("RGB", "CMYK", "L") else picture
    profile = picture.info.get("icc_profile")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if "sRGB" not in ImageCms.getProfileDescription(source):
                converted = ImageCms.profileToProfile(color, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
                color = converted or color
        except (ImageCms.PyCMSError, OSError, ValueError) as error:
            log.warning("%s: its colour profile is not usable and left out (%s)", path, error)
    color = color.convert("RGB")
    if rgba is not None:
        color.putalpha(rgba.getchannel("A"))
    return color


def _has_16_bits(picture: Image.Image, path: Path) -> bool:
    """Whether a file holds colour of 16 bits, of which Pillow gives 8."""
    if picture.mode not in ("RGB", "RGBA"):
        return False
    if picture.format == "PNG":
        with path.open("rb") as file:
            return file.read(25)[24:] == b"\x10"  # the bit depth in its header
    return picture.format == "TIFF" and 16 in getattr(picture, "tag_v2", {}).get(_BITS_PER_SAMPLE, ())


def _read_16_bits(path: Path) -> np.ndarray:
    """(H, W, 3 or 4), uint16."""
    import av

    try:
        with av.open(str(path)) as file:
            values = next(file.decode(video=0)).to_ndarray()
    except (av.FFmpegError, StopIteration) as error:
        raise ValueError(f"its 16-bit colours cannot be decoded: {error}") from error
    if values.dtype != np.uint16 or values.ndim != 3:
        raise ValueError(f"expected 16-bit colours, but got {values.dtype} in {values.ndim} dimensions")
    return values
