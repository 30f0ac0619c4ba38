"""Pairs of low and high resolution that were made before, from files.

Sample i is the same for the same seed in any worker. Each epoch goes through all files in its own order.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..captions import measured as quality
from ..captions.files import read_captions
from ..errors import InputError
from ..images.check import ImageError, enlarge
from ..images.find import find_images, match_folders
from ..images.read import picture_size, read_rgb
from .choices import Choices
from .degraded import SCALE
from .photo_files import epoch_order, usable
from .pregenerated import read_records
from .prompts import PromptShares, training_prompt
from .samples import Sample, sample, turned_pair

log = logging.getLogger(__name__)

CAPTIONS = "captions.json"
TEACHER = "teacher"
"""Folder beside `lr` and `hr` with another upscaler's pictures of lr, as large as hr; some may be missing."""


def load_captions(folder: Path, stems: Iterable[str]) -> dict[str, str]:
    """`captions.json` beside `lr` and `hr`: {image name, with or without suffix: prompt}.

    Without it `captions.jsonl`, as the command `caption FOLDER/lr --out FOLDER/captions.jsonl` writes it.

    Raises:
        ValueError: no such file, not readable, or an image without a caption.
    """
    path = folder / CAPTIONS
    lines = path.with_suffix(".jsonl")
    return read_captions(lines if lines.is_file() and not path.is_file() else path, stems)


class PairPatches(Dataset[Sample]):
    """Crops of aligned pairs FOLDER/lr and FOLDER/hr, matched by name; lr is a quarter as large, or as large, as hr.

    Args:
        folder: with `lr`, `hr` and, for prompts `files`, captions.json.
        patch: side of a crop of hr.
        length: number of samples.
        seed: of order, crops and turns.
        prompts: `measured`, `files` or `empty`.
        fixed: take pairs as they are, without crop or turn; they must be as large as `patch`.
        upright: flip crops, do not turn them.
        taught: read the teacher's pictures too, where there are some.
        shares: vary the measured prompts; where `degrade` noted what it did, some of them say that.
    """

    def __init__(
        self, folder: Path, patch: int, length: int, seed: int, prompts: str, fixed: bool = False,
        shares: PromptShares | None = None, upright: bool = False, taught: bool = False,
    ) -> None:  # fmt: skip
        for part in ("lr", "hr"):
            if not (folder / part).is_dir():
                raise InputError(
                    f"expected the folders lr and hr in it, but {part} is missing", field="pairs", value=folder
                )
        self.patch, self.length, self.seed, self.prompts, self.fixed = patch, length, seed, prompts, fixed
        self.upright = upright
        self.teacher = {path.stem: path for path in self._taught(folder / TEACHER)} if taught else {}
        good = set(usable((pair[1] for pair in match_folders(folder / "lr", folder / "hr").values()), patch))
        self.pairs = {s: p for s, p in match_folders(folder / "lr", folder / "hr").items() if p[1] in good}
        self.pairs = {s: p for s, p in sorted(self.pairs.items()) if self._fits(*p)}
        if not self.pairs:
            raise InputError(f"no pair is at least {patch} pixels on both sides", field="pairs", value=folder)
        self.stems = list(self.pairs)
        self.captions = load_captions(folder, self.stems) if prompts == "files" else {}
        self.shares = shares
        self.records = read_records(folder) if prompts == "measured" else {}
        self.cache: Path | None = None
        """Folder with cached latents, see `latent_cache.py`."""

    def _fits(self, lr: Path, hr: Path) -> bool:
        try:
            sizes = picture_size(lr), picture_size(hr)
        except ImageError as error:
            log.warning("%s: skipped (%s)", lr, error)
            return False
        if sizes[1] not in (sizes[0], (sizes[0][0] * SCALE, sizes[0][1] * SCALE)):
            raise InputError(
                f"{lr}: is {sizes[0][0]} x {sizes[0][1]}, its target {sizes[1][0]} x {sizes[1][1]}; expected {SCALE} "
                "times the size, or the same"
            )
        if self.fixed and sizes[1] != (self.patch, self.patch):
            raise InputError(
                f"{hr}: is {sizes[1][0]} x {sizes[1][1]}; cached latents need pairs of exactly {self.patch} "
                "pixels (make them with `degrade`)"
            )
        return True

    @staticmethod
    def _taught(folder: Path) -> list[Path]:
        found = find_images(folder) if folder.is_dir() else []
        if not found:
            raise InputError("expected the teacher's pictures in it, but found none", "teacher_share", folder)
        return found

    def __len__(self) -> int:
        return self.length

    def pair(self, stem: str) -> tuple[Tensor, Tensor]:
        """lr and hr of one name, (3, h, w) and (3, H, W) in [0, 1]; hr is (6, H, W) with the teacher's picture."""
        lr, hr = read_rgb(self.pairs[stem][0]), read_rgb(self.pairs[stem][1])
        if stem not in self.teacher:
            return lr, hr
        taught = read_rgb(self.teacher[stem])
        if taught.shape != hr.shape:
            raise InputError(
                f"{self.teacher[stem]}: is {taught.shape[2]} x {taught.shape[1]}, the target {hr.shape[2]} x "
                f"{hr.shape[1]}; expected the same"
            )
        return lr, torch.cat([hr, taught])

    def input(self, stem: str) -> Tensor:
        """x_lq of one whole pair of `patch`: (3, H, W) in [-1, 1]. The target is not read."""
        low = read_rgb(self.pairs[stem][0])
        whole = low if low.shape[-1] == self.patch else enlarge(low[None], self.patch, self.patch).clamp(0, 1)[0]
        return whole * 2 - 1

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.length:
            raise IndexError(index)
        number, _ = epoch_order(index, len(self.stems), self.seed)
        for attempt in range(len(self.stems)):
            stem = self.stems[(number + attempt) % len(self.stems)]
            try:
                lr, hr = self.pair(stem)
            except ImageError as error:
                log.warning("%s; took the next one", error)
                continue
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
            return self._make(stem, lr, hr, generator)
        raise InputError("no pair can be read any more")

    def _make(self, stem: str, lr: Tensor, hr: Tensor, generator: torch.Generator) -> Sample:
        if not self.fixed:
            ratio = hr.shape[-1] // lr.shape[-1]
            side = self.patch // ratio
            y = Choices(generator).below(lr.shape[-2] - side + 1)
            x = Choices(generator).below(lr.shape[-1] - side + 1)
            lr = lr[:, y : y + side, x : x + side]
            hr = hr[:, y * ratio : y * ratio + self.patch, x * ratio : x * ratio + self.patch]
            lr, hr = (picture.contiguous() for picture in turned_pair(lr, hr, generator, self.upright))
        moments = None
        if self.cache is not None:
            from safetensors.torch import load_file

            moments = load_file(self.cache / f"{stem}.safetensors")["moments"]
        taught = hr[3:] if len(hr) > 3 else None
        return sample(lr, hr[:3], self._prompt(stem, lr, generator), moments, taught)

    def _prompt(self, stem: str, lr: Tensor, generator: torch.Generator) -> str:
        if self.prompts == "files":
            return self.captions[stem]
        if self.prompts == "empty":
            return ""
        record = self.records.get(stem)
        measured = record.measured if record else quality.measure_quality(lr[None])[0]
        if self.shares is None:
            return quality.describe(measured)
        return training_prompt(measured, record.applied if record else None, generator, self.shares)
