"""Training samples: one pair with its prompt, and batches of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..images.check import enlarge
from .choices import Choices


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
    x_teacher: Tensor | None = None
    """(3, H, W) in [-1, 1], another upscaler's picture of the same input, when there is one."""


def turned(photo: Tensor, generator: torch.Generator) -> Tensor:
    """One of the eight turns and flips of (C, H, W)."""
    turn = Choices(generator).below(8)
    photo = torch.rot90(photo, turn % 4, (1, 2))
    return photo.flip(2) if turn >= 4 else photo


def flipped(photo: Tensor, generator: torch.Generator) -> Tensor:
    """(C, H, W), half of the time as in a mirror: photos with a sky and a ground stay upright."""
    return photo.flip(2) if Choices(generator).below(2) else photo


def turned_pair(lr: Tensor, hr: Tensor, generator: torch.Generator, upright: bool = False) -> tuple[Tensor, Tensor]:
    """Both pictures of a pair, (B, C, H, W) or (C, H, W), turned and flipped the same way; `upright`: only flipped."""
    turn = 4 * Choices(generator).below(2) if upright else Choices(generator).below(8)
    one, other = (torch.rot90(picture, turn % 4, (-2, -1)) for picture in (lr, hr))
    return (one.flip(-1), other.flip(-1)) if turn >= 4 else (one, other)


@dataclass(frozen=True)
class Batch:
    """Samples stacked; see `Sample`."""

    x_lq: Tensor
    x_gt: Tensor
    prompts: list[str]
    moments: Tensor | None = None
    x_teacher: Tensor | None = None


def collate(samples: list[Sample]) -> tuple[Tensor, Tensor, list[str], Tensor | None, Tensor | None]:
    """Stack samples: x_lq and x_gt (B, 3, H, W), prompts, cached moments (B, 2, C, h, w) or None, x_teacher or None.

    Where only some samples have a teacher's picture, the others' target takes its place.

    A tuple, since accelerate moves those to the device; `Batch(*collated)` names its parts.
    """
    cached = [s.moments for s in samples if s.moments is not None]
    taught = any(s.x_teacher is not None for s in samples)
    return (
        torch.stack([s.x_lq for s in samples]),
        torch.stack([s.x_gt for s in samples]),
        [s.prompt for s in samples],
        torch.stack(cached) if len(cached) == len(samples) else None,
        torch.stack([s.x_gt if s.x_teacher is None else s.x_teacher for s in samples]) if taught else None,
    )


def sample(lr: Tensor, hr: Tensor, prompt: str, moments: Tensor | None = None, teacher: Tensor | None = None) -> Sample:
    """(3, h, w) and (3, H, W) in [0, 1] -> a sample, the input enlarged to the target's size."""
    x_lq = lr if lr.shape == hr.shape else enlarge(lr[None], *hr.shape[-2:]).clamp(0, 1)[0]
    return Sample(x_lq * 2 - 1, hr * 2 - 1, prompt, moments, None if teacher is None else teacher * 2 - 1)
