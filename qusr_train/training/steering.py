"""Prompts that steer: a word that says more blur must sharpen more, one that says more noise must clean more.

Pixel losses alone do not ask for that. For a very blurry picture they are least when little is sharpened, so the last
of the captioner's words undoes what the others did.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..captions import measured as quality
from ..captions.estimators import luma
from ..data.choices import Choices
from ..images.gaussian import gaussian_window

EVERY = 2
"""Steps between two comparisons."""
PICTURES = 2
"""Pictures of a batch that are restored twice for it."""


@dataclass(frozen=True)
class Steering:
    """Two prompts that differ in one word, from the captioner's scale of five."""

    more: str
    """Its result should have more detail: blurrier, or less noise."""
    less: str
    sigma: float
    """Detail is what a gaussian of this many pixels takes away: noise is finer than blur's loss."""
    margin: float
    """How much more, as a logarithm."""


def draw_steering(generator: torch.Generator) -> Steering:
    """Neighbouring words of clarity or noise, in a whole caption or alone; `generator` makes every random choice."""
    choices = Choices(generator)
    clarity = choices.chance(0.6)
    words = quality.CLARITY_WORDS if clarity else quality.NOISE_WORDS
    step = choices.below(len(words) - 1)
    near, far = words[step : step + 2]
    if choices.chance(0.6):
        other, color, artifacts, exposure, contrast = (
            choices.one_of(scale)
            for scale in (
                quality.NOISE_WORDS if clarity else quality.CLARITY_WORDS, quality.COLOR_WORDS, quality.BLOCKING_WORDS,
                quality.EXPOSURE_WORDS, quality.CONTRAST_WORDS,
            )
        )  # fmt: skip
        near, far = (
            quality.caption_text(
                word if clarity else other, color, other if clarity else word, artifacts, f"{exposure} with {contrast}"
            )
            for word in (near, far)
        )
    elif choices.chance(0.5):
        near, far = (word.split(", ")[-1] for word in (near, far))
    return Steering(far, near, 1.6, 0.04) if clarity else Steering(near, far, 0.7, 0.02)


def detail(x: Tensor, sigma: float) -> Tensor:
    """(B,): mean absolute difference of luma to its blurred self; x (B, 3, H, W) in [-1, 1]."""
    y = luma(x.float())[:, None]
    size = 2 * round(3 * sigma) + 1
    window = gaussian_window(size, sigma, device=x.device)
    low = F.conv2d(F.conv2d(y, window.view(1, 1, 1, -1)), window.view(1, 1, -1, 1))
    edge = size // 2
    return (y[..., edge:-edge, edge:-edge] - low).abs().mean((1, 2, 3))


def steering_loss(more: Tensor, less: Tensor, steering: Steering) -> Tensor:
    """How far the results are from the order that the two prompts ask for: 0 where it holds with the margin.

    Args:
        more, less: (B, 3, H, W) in [-1, 1], the results for `steering.more` and `steering.less`.
    """
    gain = (detail(more, steering.sigma) + 1e-4).log() - (detail(less, steering.sigma) + 1e-4).log()
    return F.relu(steering.margin - gain).mean()
