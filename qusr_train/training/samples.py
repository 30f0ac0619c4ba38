"""The training data that the settings ask for."""

from __future__ import annotations

from pathlib import Path

from torch.utils.data import Dataset

from ..data.camera_pairs import CameraPairs, load_camera_pairs
from ..data.captioned import CaptionedPatches
from ..data.degradation import degradation
from ..data.mixed import Mixed
from ..data.pairs import PairPatches
from ..data.photo_files import FilePatches
from ..data.photos import PhotoPatches, load_photos
from ..data.prompts import PromptShares
from ..data.samples import Sample
from .config import TrainConfig


def file_samples(config: TrainConfig, length: int) -> Dataset[Sample]:
    """For SD 2.1-base: pairs, or photos read when they are needed; prompts are the captioner's own words."""
    if config.pairs:
        pairs = PairPatches(
            Path(config.pairs), config.patch, length, config.seed, config.prompts, fixed=config.cache_latents,
            upright=config.upright,
        )  # fmt: skip
        return _with_camera_pairs(config, pairs, length, None)
    degrade = degradation(config.degradation, config.sharpen_targets, config.degradation_ranges)

    def patches(folder: str) -> Dataset[Sample]:
        crops = FilePatches(
            Path(folder), config.patch, length, config.seed, degrade, config.photo_factors, config.upright
        )
        return CaptionedPatches(crops, config.prompts)

    photos = patches(config.photos)
    if config.more_photos:
        photos = Mixed(photos, patches(config.more_photos), config.more_share, config.seed)
    return _with_camera_pairs(config, photos, length, None)


def varied_samples(config: TrainConfig, length: int) -> Dataset[Sample]:
    """For nano: pairs, or photos kept in memory at the sizes of `photo_factors`; prompts in many wordings."""
    shares = PromptShares()
    if config.pairs:
        pairs = PairPatches(
            Path(config.pairs), config.patch, length, config.seed, config.prompts, shares=shares,
            taught=config.teacher_share > 0,
        )  # fmt: skip
        return _with_camera_pairs(config, pairs, length, shares)
    photos = load_photos(Path(config.photos), config.photo_factors, config.patch)
    degrade = degradation(config.degradation, config.sharpen_targets, config.degradation_ranges)
    patches = PhotoPatches(photos, config.patch, length, config.seed, degrade)
    return _with_camera_pairs(config, CaptionedPatches(patches, config.prompts, shares), length, shares)


def _with_camera_pairs(
    config: TrainConfig, samples: Dataset[Sample], length: int, shares: PromptShares | None
) -> Dataset[Sample]:
    if not config.camera_pairs:
        return samples
    pairs = load_camera_pairs(Path(config.camera_pairs), config.patch)
    real = CaptionedPatches(CameraPairs(pairs, config.patch, length, config.seed), config.prompts, shares)
    return Mixed(samples, real, config.camera_share, config.seed)
