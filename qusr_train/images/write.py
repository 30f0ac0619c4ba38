"""The one writer of picture files: 8 bits, rounded, whole or not at all."""

from __future__ import annotations

import io
import os
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..files import write_whole

QUICK = 1
"""zlib's level for pictures that only this machine reads."""


def to_picture(image: Tensor) -> Image.Image:
    """(3 or 4, H, W) in [0, 1] as Pillow's RGB or RGBA, rounded to 8 bits; values outside are clamped."""
    values = (image.detach().float().clamp(0, 1) * 255.0).round().byte()
    return Image.fromarray(values.movedim(0, -1).contiguous().cpu().numpy())


def png_bytes(picture: Image.Image | Tensor, compress_level: int = 6) -> bytes:
    """A PNG file's content.

    Args:
        picture: Pillow's, or (3 or 4, H, W) in [0, 1].
        compress_level: zlib's, 0 to 9.
    """
    buffer = io.BytesIO()
    (to_picture(picture) if isinstance(picture, Tensor) else picture).save(buffer, "PNG", compress_level=compress_level)
    return buffer.getvalue()


def write_png(path: str | os.PathLike[str], rgb: Tensor, alpha: Tensor | None = None, compress_level: int = 6) -> None:
    """Write (3, H, W) in [0, 1], with (1, H, W) alpha if given; the file appears whole or not at all."""
    data = png_bytes(rgb if alpha is None else torch.cat([rgb, alpha]), compress_level)
    with write_whole(Path(path)) as temporary:
        temporary.write_bytes(data)
