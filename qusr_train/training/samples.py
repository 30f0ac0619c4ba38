"""The training data that the settings ask for."""

from __future__ import annotations

from pathlib import Path

from ..data.degradation import degradation
from ..data.pairs import PairPatches
from ..data.photo_files import CaptionedPatches, FilePatches
from .config import TrainConfig


def file_samples(config: TrainConfig, length: int) -> CaptionedPatches | PairPatches:
    """The data set that the settings ask for, from files."""
    if config.pairs:
        return PairPatches(
            Path(config.pairs), config.patch, length, config.seed, config.prompts, fixed=config.cache_latents
        )
    degrade = degradation(config.degradation, config.sharpen_targets)
    patches = FilePatches(Path(config.photos), config.patch, length, config.seed, degrade, config.photo_factors)
    return CaptionedPatches(patches, config.prompts)
