"""Photos that are read from files and degraded when they are needed, when there are too many for memory.

Sample i is the same for the same seed in any worker. Each epoch goes through all files in its own order.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import InputError
from ..images.check import ImageError
from ..images.find import find_images
from ..images.read import open_rgb, picture_size
from .choices import Choices
from .degradation import Degradation
from .degraded import SCALE, Degraded
from .samples import flipped, turned

log = logging.getLogger(__name__)


def epoch_order(index: int, count: int, seed: int) -> tuple[int, int]:
    """Which of `count` files sample `index` takes, in an order that is shuffled anew each epoch.

    Returns:
        The file's number, and the epoch.
    """
    epoch, place = divmod(index, count)
    return int(_permutation(count, seed, epoch)[place]), epoch


@functools.lru_cache(maxsize=2)
def _permutation(count: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed * 9_176_867 + epoch))


def usable(paths: Iterable[Path], smallest: int) -> list[Path]:
    """The pictures whose header can be read and whose sides are at least `smallest`; others are counted and named."""
    good, broken, small = [], [], 0
    for path in paths:
        try:
            fits = min(picture_size(path)) >= smallest
        except ImageError as error:
            log.warning("%s: skipped (%s)", path, error)
            broken.append(path)
            continue
        if fits:
            good.append(path)
        else:
            small += 1
    if broken:
        log.warning("%d broken images skipped", len(broken))
    if small:
        log.warning("%d images skipped, a side is below %d pixels", small, smallest)
    return good


class FilePatches(Dataset[Degraded]):
    """Random crops of photo files, turned and degraded; a file that fails is reported and the next one taken."""

    def __init__(
        self,
        folder: Path,
        patch: int,
        length: int,
        seed: int,
        degrade: Degradation,
        factors: tuple[float, ...] = (1.0,),
        upright: bool = False,
    ) -> None:
        self.patch, self.length, self.seed, self.degrade = patch, length, seed, degrade
        self.factors, self.turn = factors, flipped if upright else turned
        self.paths = usable(find_images(folder), int(np.ceil(patch / max(factors))))
        if not self.paths:
            raise InputError(f"{folder}: no photo is at least {patch} pixels on both sides after scaling")

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Degraded:
        if not 0 <= index < self.length:
            raise IndexError(index)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        number, _ = epoch_order(index, len(self.paths), self.seed)
        for attempt in range(len(self.paths)):
            path = self.paths[(number + attempt) % len(self.paths)]
            try:
                photo = self._crop(path, generator)
            except ImageError as error:
                log.warning("%s; took the next one", error)
                continue
            return self.degrade(self.turn(photo, generator)[None].contiguous(), generator, SCALE)
        raise InputError("no photo can be read any more")

    def _crop(self, path: Path, generator: torch.Generator) -> Tensor:
        photo = open_rgb(path)
        fitting = [factor for factor in self.factors if round(min(photo.size) * factor) >= self.patch]
        factor = fitting[Choices(generator).below(len(fitting))]
        if factor != 1.0:
            photo = photo.resize((round(photo.width * factor), round(photo.height * factor)), Image.Resampling.LANCZOS)
        y = Choices(generator).below(photo.height - self.patch + 1)
        x = Choices(generator).below(photo.width - self.patch + 1)
        crop = photo.crop((x, y, x + self.patch, y + self.patch))
        return torch.from_numpy(np.array(crop)).permute(2, 0, 1).float() / 255.0
