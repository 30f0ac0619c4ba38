"""The training data that the settings ask for, and the one place where nano and SD 2.1-base differ in it.

| stage        | photos               | measured prompts                                                         |
|--------------|----------------------|--------------------------------------------------------------------------|
| base, qusr   | kept in memory       | half of them true instead of measured, other words, a tenth left out     |
| sd21         | read when needed     | as the captioner says them: SD 2.1 knows words, and the reference varies none |

Pairs are the same for all.
"""

from __future__ import annotations

from pathlib import Path

from ..data.degradation import degradation
from ..data.pairs import PairPatches
from ..data.photo_files import CaptionedPatches, FilePatches
from ..data.photos import PhotoPatches, load_photos
from .config import TrainConfig


def training_samples(config: TrainConfig, length: int) -> PhotoPatches | CaptionedPatches | PairPatches:
    """The data set of a run, `length` samples long."""
    if config.pairs:
        return PairPatches(
            Path(config.pairs), config.patch, length, config.seed, config.prompts, fixed=config.cache_latents
        )
    folder, degrade = Path(config.photos), degradation(config.degradation, config.sharpen_targets)
    if config.stage == "sd21":
        patches = FilePatches(folder, config.patch, length, config.seed, degrade, config.photo_factors)
        return CaptionedPatches(patches, config.prompts)
    photos = load_photos(folder, config.photo_factors, config.patch)
    return PhotoPatches(
        photos, config.patch, length, config.seed,
        empty_prompts=0.1 if config.prompts == "measured" else 1.0,
        true_prompts=0.5 if config.degradation == "camera" else 0.0,
        degradation=degrade,
    )  # fmt: skip
