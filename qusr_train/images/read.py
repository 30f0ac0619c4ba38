"""Reading picture files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from .check import CheckedImage, ImageError, check_image


def read_image(path: Path) -> CheckedImage:
    """Read a picture file: any Pillow mode, orientation applied, 16-bit grey kept to its range.

    Raises:
        ImageError: not a readable image.
    """
    try:
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened)
            if picture.mode.startswith("I"):
                array = np.asarray(picture, dtype=np.float32)[..., None] / 65535.0
            elif picture.mode == "F":  # float TIFF, by convention in [0, 1]
                array = np.asarray(picture, dtype=np.float32)[..., None]
            else:
                has_alpha = picture.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info
                array = np.asarray(picture.convert("RGBA" if has_alpha else "RGB"), dtype=np.float32) / 255.0
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path}: cannot be read as an image ({error})") from error
    return check_image(torch.from_numpy(np.array(array))[None], str(path))


def load_rgb(path: Path) -> np.ndarray:
    """(H, W, 3), float64 in [0, 1]. Raises ValueError naming a file that is not an image."""
    try:
        with Image.open(path) as opened:
            return np.asarray(opened.convert("RGB"), dtype=np.float64) / 255.0
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path}: cannot be read as an image ({error})") from error
