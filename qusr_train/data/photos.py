"""Photos kept in memory, cropped and degraded.

`photo_files.py` reads them from files instead, when there are too many for memory.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import InputError
from ..images.check import ImageError
from ..images.find import find_images
from ..images.read import open_rgb
from .camera import degrade
from .choices import Choices
from .degradation import Degradation
from .degraded import SCALE, Degraded
from .samples import turned

log = logging.getLogger(__name__)


def load_photos(folder: Path, factors: tuple[float, ...], smallest: int) -> list[Tensor]:
    """Read every photo and keep reduced copies in memory, since most are soft at full size.

    Args:
        folder: searched recursively; broken files are reported and skipped.
        factors: sizes to keep, e.g. (0.5, 0.33).
        smallest: copies with a side below this are dropped.

    Returns:
        uint8 tensors (3, H, W).
    """
    copies = []
    skipped = 0
    for path in find_images(folder):
        try:
            photo = open_rgb(path)
        except ImageError as error:
            log.warning("%s: skipped (%s)", path, error)
            skipped += 1
            continue
        for factor in factors:
            size = (round(photo.width * factor), round(photo.height * factor))
            if min(size) < smallest:
                continue
            reduced = photo if factor == 1.0 else photo.resize(size, Image.Resampling.LANCZOS)
            copies.append(torch.from_numpy(np.array(reduced)).permute(2, 0, 1).contiguous())
    if skipped:
        log.warning("%d broken images skipped", skipped)
    if not copies:
        raise InputError(f"{folder}: no photo is at least {smallest} pixels on both sides after scaling")
    return copies


class PhotoPatches(Dataset[Degraded]):
    """Random crops, turned and degraded; sample i is the same for the same seed, in any worker."""

    def __init__(
        self,
        photos: list[Tensor],
        patch: int,
        length: int,
        seed: int,
        degradation: Degradation = degrade,
    ) -> None:
        self.photos = photos
        self.patch = patch
        self.length = length
        self.seed = seed
        self.degradation = degradation
        # Between one draw for each photo and one for each pixel: large photos hold more, but not all of it new.
        areas = torch.tensor([p.shape[1] * p.shape[2] for p in photos], dtype=torch.float64).sqrt()
        self.cumulative = (areas / areas.sum()).cumsum(0)

    def __len__(self) -> int:
        return self.length

    def _crop(self, generator: torch.Generator) -> Tensor:
        size, choices = self.patch, Choices(generator)
        best: Tensor | None = None
        for _ in range(5):  # flat sky teaches little: take the first crop with some texture
            where = torch.rand((), generator=generator, dtype=torch.float64)
            photo = self.photos[min(int(torch.searchsorted(self.cumulative, where)), len(self.photos) - 1)]
            y = choices.below(photo.shape[1] - size + 1)
            x = choices.below(photo.shape[2] - size + 1)
            best = photo[:, y : y + size, x : x + size].float() / 255.0
            if (best[:, :, 1:] - best[:, :, :-1]).abs().mean() > 0.012:
                break
        assert best is not None
        return best

    def __getitem__(self, index: int) -> Degraded:
        if not 0 <= index < self.length:
            raise IndexError(index)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        photo = turned(self._crop(generator), generator)
        return self.degradation(photo[None].contiguous(), generator, SCALE)
