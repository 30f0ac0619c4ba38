"""Training data: photos in memory -> (low-resolution, high-resolution, caption) samples.

`pairs.py` reads photos and pairs from files instead, when there are too many for memory.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from . import quality
from .degradations import SCALE, Degraded, degrade
from .images import enlarge

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Sample:
    """One training pair."""

    x_lq: Tensor
    """(3, H, W) in [-1, 1], the low-resolution image enlarged to the target's size."""
    x_gt: Tensor
    """(3, H, W) in [-1, 1], the target."""
    prompt: str
    moments: Tensor | None = None
    """(2, C, h, w), cached mean and standard deviation of x_lq's unscaled latent, when there is a cache."""


def find_images(folder: Path) -> list[Path]:
    """All images below a folder, sorted by path. Raises ValueError when there is none."""
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not found:
        raise ValueError(f"{folder}: no images found (looked for {', '.join(IMAGE_SUFFIXES)})")
    return found


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
            with Image.open(path) as opened:
                photo = opened.convert("RGB")
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            log.warning("%s: skipped, cannot be read (%s)", path, error)
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
        raise ValueError(f"{folder}: no photo is at least {smallest} pixels on both sides after scaling")
    return copies


SYNONYMS: dict[str, tuple[str, ...]] = {
    "very poor clarity, very blurry": ("extremely blurry with very low clarity", "severely out of focus"),
    "poor clarity, blurry": ("blurry with poor clarity", "low clarity, lacking sharpness"),
    "fair clarity, slightly soft": ("moderate clarity, a bit soft", "somewhat soft details"),
    "good clarity, sharp": ("clear and sharp details", "good sharpness"),
    "excellent clarity, very sharp": ("crisp, very clear details", "high sharpness"),
    "no visible noise": ("no noise", "a clean surface"),
    "slight noise": ("minimal noise", "a little noise"),
    "noticeable noise": ("visible noise", "some grain"),
    "strong noise": ("heavy noise", "strong grain"),
    "severe noise": ("extreme noise", "very heavy grain"),
    "no compression artifacts": ("no artifacts", "clean edges"),
    "visible compression artifacts": ("noticeable artifacts", "pixelation"),
    "heavy compression artifacts": ("strong blocky artifacts", "severe pixelation"),
}


def paraphrase(prompt: str, generator: torch.Generator) -> str:
    """Vary a measured caption's wording, so that the model also reads prompts people and Qwen write."""

    def pick(count: int) -> int:
        return int(torch.randint(count, (), generator=generator).item())

    for phrase, others in SYNONYMS.items():
        choice = pick(len(others) + 1)
        if choice and phrase in prompt:
            prompt = prompt.replace(phrase, others[choice - 1])
    return prompt


# Where the true blur, noise and JPEG loss change words, chosen so that each word comes about as often
# as from the measured values.
TRUE_BLUR_LEVELS = (0.26, 0.47, 0.74, 0.95)
TRUE_NOISE_LEVELS = (0.7, 2.0, 5.0, 10.0)
TRUE_JPEG_LEVELS = (5.0, 18.0, 40.0)  # 100 - quality


def true_quality(measured: quality.Quality, degraded: Degraded) -> quality.Quality:
    """What the captioner would have measured on `degraded.lr`, were it never wrong.

    A prompt must tell the model more than the picture does, or the model learns not to read it.
    """

    def on_scale(value: float, true: tuple[float, ...], read: tuple[float, ...]) -> float:
        return float(np.interp(value, (0.0, *true, 2 * true[-1]), (0.0, *read, 2 * read[-1])))

    blur = on_scale(degraded.blur, TRUE_BLUR_LEVELS, quality.BLUR_LEVELS)
    noise = on_scale(degraded.noise, TRUE_NOISE_LEVELS, quality.NOISE_LEVELS)
    blocking = on_scale(100 - degraded.quality, TRUE_JPEG_LEVELS, quality.BLOCKING_LEVELS)
    return dataclasses.replace(measured, blur_x=blur, blur_y=blur, noise=noise, chroma_noise=0.0, blocking=blocking)


Degradation = Callable[[Tensor, torch.Generator, int], Degraded]
"""(1, 3, H, W) in [0, 1], generator, scale -> a pair."""


def turned(photo: Tensor, generator: torch.Generator) -> Tensor:
    """One of the eight turns and flips of (C, H, W)."""
    turn = int(torch.randint(8, (), generator=generator))
    photo = torch.rot90(photo, turn % 4, (1, 2))
    return photo.flip(2) if turn >= 4 else photo


class PhotoPatches(Dataset[Sample]):
    """Random crops, degraded and captioned; sample i is the same for the same seed, in any worker."""

    def __init__(
        self,
        photos: list[Tensor],
        patch: int,
        length: int,
        seed: int,
        empty_prompts: float = 0.1,
        true_prompts: float = 0.5,
        degradation: Degradation = degrade,
    ) -> None:
        self.photos = photos
        self.patch = patch
        self.length = length
        self.seed = seed
        self.empty_prompts = empty_prompts
        self.true_prompts = true_prompts
        self.degradation = degradation
        # Between one draw for each photo and one for each pixel: large photos hold more, but not all of it new.
        areas = torch.tensor([p.shape[1] * p.shape[2] for p in photos], dtype=torch.float64).sqrt()
        self.cumulative = (areas / areas.sum()).cumsum(0)

    def __len__(self) -> int:
        return self.length

    def _crop(self, generator: torch.Generator) -> Tensor:
        size = self.patch
        best: Tensor | None = None
        for _ in range(4):  # flat sky teaches little: take the first crop with some texture
            where = torch.rand((), generator=generator, dtype=torch.float64)
            photo = self.photos[min(int(torch.searchsorted(self.cumulative, where)), len(self.photos) - 1)]
            y = int(torch.randint(photo.shape[1] - size + 1, (), generator=generator))
            x = int(torch.randint(photo.shape[2] - size + 1, (), generator=generator))
            best = photo[:, y : y + size, x : x + size].float() / 255.0
            if (best[:, :, 1:] - best[:, :, :-1]).abs().mean() > 0.008:
                break
        assert best is not None
        return best

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.length:
            raise IndexError(index)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        photo = turned(self._crop(generator), generator)
        pair = self.degradation(photo[None].contiguous(), generator, SCALE)
        words = quality.measure_quality(pair.lr)[0]
        if torch.rand((), generator=generator).item() < self.true_prompts:
            words = true_quality(words, pair)
        prompt = paraphrase(quality.describe(words), generator)
        if torch.rand((), generator=generator).item() < self.empty_prompts:
            prompt = ""
        x_lq = enlarge(pair.lr, self.patch, self.patch).clamp(0, 1)
        return Sample(x_lq[0] * 2 - 1, pair.hr[0] * 2 - 1, prompt)


@dataclass(frozen=True)
class Batch:
    """Samples stacked; see `Sample`."""

    x_lq: Tensor
    x_gt: Tensor
    prompts: list[str]
    moments: Tensor | None = None


def collate(samples: list[Sample]) -> tuple[Tensor, Tensor, list[str], Tensor | None]:
    """Stack samples: x_lq and x_gt (B, 3, H, W), prompts, cached moments (B, 2, C, h, w) or None.

    A tuple, since accelerate moves those to the device; `Batch(*collated)` names its parts.
    """
    cached = [s.moments for s in samples if s.moments is not None]
    return (
        torch.stack([s.x_lq for s in samples]),
        torch.stack([s.x_gt for s in samples]),
        [s.prompt for s in samples],
        torch.stack(cached) if len(cached) == len(samples) else None,
    )
