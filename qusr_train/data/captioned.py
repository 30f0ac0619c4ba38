"""Degraded pairs as training samples: with a prompt, the input enlarged."""

from __future__ import annotations

from typing import Protocol

import torch
from torch.utils.data import Dataset

from ..captions import measured as quality
from .degraded import Degraded
from .prompts import PromptShares, training_prompt
from .samples import Sample, sample


class Pairs(Protocol):
    """`PhotoPatches`, `FilePatches`, `CameraPairs`."""

    seed: int

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Degraded: ...


class CaptionedPatches(Dataset[Sample]):
    """Pairs with prompts.

    Args:
        patches: the pairs.
        prompts: `measured`, for the captioner's own words on each, or `empty`.
        shares: vary the measured prompts; see `training_prompt`.
    """

    def __init__(self, patches: Pairs, prompts: str, shares: PromptShares | None = None) -> None:
        self.patches, self.prompts, self.shares = patches, prompts, shares

    def __len__(self) -> int:
        return len(self.patches)

    def __getitem__(self, index: int) -> Sample:
        pair = self.patches[index]
        prompt = ""
        if self.prompts != "empty":
            measured = quality.measure_quality(pair.lr)[0]
            if self.shares is None:
                prompt = quality.describe(measured)
            else:
                generator = torch.Generator().manual_seed(self.patches.seed * 4_256_233 + index)
                prompt = training_prompt(measured, pair.applied, generator, self.shares)
        return sample(pair.lr[0], pair.hr[0], prompt)
