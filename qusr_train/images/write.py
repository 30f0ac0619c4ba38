"""Writing picture files."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..files import write_whole


def write_png(path: Path, rgb: Tensor, alpha: Tensor | None = None) -> None:
    """Write (3, H, W) in [0, 1], with (1, H, W) alpha if given; the file appears whole or not at all."""
    x = rgb if alpha is None else torch.cat([rgb, alpha])
    array = (x.clamp(0, 1) * 255.0).round().byte().permute(1, 2, 0).cpu().numpy()
    with write_whole(path) as temporary:
        Image.fromarray(array).save(temporary, "PNG")
