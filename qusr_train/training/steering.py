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
from ..data.choices import Choices
from ..images.gaussian import gaussian_window

EVERY = 2
"""Steps between two comparisons."""
PICTURES = 2
"""Pictures of a batch that are restored twice for it."""
_LUMA = (0.299, 0.587, 0.114)


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
    """Neighbouring words of clarity or noise, in a whole caption or alone."""
    choices = Choices(generator)
    clarity = choices.chance(0.6)
    words = quality.CLARITY_WORDS if clarity else quality.NOISE_WORDS
    step = choices.below(len(words) - 1)
    if choices.chance(0.6):
        near, far = (_caption(words[step + i], clarity, choices.generator) for i in (0, 1))
    else:
        short = choices.chance(0.5)
        near, far = (words[step + i].split(", ")[-1] if short else words[step + i] for i in (0, 1))
    return Steering(far, near, 1.6, 0.04) if clarity else Steering(near, far, 0.7, 0.02)


def _caption(word: str, clarity: bool, generator: torch.Generator) -> str:
    """The captioner's text around a word; the same generator state gives the same text."""
    choices = Choices(torch.Generator().manual_seed(generator.initial_seed()))
    parts = [
        choices.one_of(w)
        for w in (
            quality.CLARITY_WORDS, quality.COLOR_WORDS, quality.NOISE_WORDS, quality.BLOCKING_WORDS,
            quality.EXPOSURE_WORDS, quality.CONTRAST_WORDS,
        )
    ]  # fmt: skip
    parts[0 if clarity else 2] = word
    return (
        f"The low-resolution image has {parts[0]}. The color is {parts[1]}. There is {parts[2]} and {parts[3]}. "
        f"The lighting is {parts[4]} with {parts[5]}."
    )


def detail(x: Tensor, sigma: float) -> Tensor:
    """(B,): mean absolute difference of luma to its blurred self; x (B, 3, H, W) in [-1, 1]."""
    luma = (x.float() * x.new_tensor(_LUMA, dtype=torch.float32).view(1, 3, 1, 1)).sum(1, keepdim=True)
    size = 2 * round(3 * sigma) + 1
    window = gaussian_window(size, sigma, device=x.device)
    low = F.conv2d(F.conv2d(luma, window.view(1, 1, 1, -1)), window.view(1, 1, -1, 1))
    edge = size // 2
    return (luma[..., edge:-edge, edge:-edge] - low).abs().mean((1, 2, 3))


def steering_loss(more: Tensor, less: Tensor, steering: Steering) -> Tensor:
    """How far the results are from the order that the two prompts ask for: 0 where it holds with the margin.

    Args:
        more, less: (B, 3, H, W) in [-1, 1], the results for `steering.more` and `steering.less`.
    """
    gain = (detail(more, steering.sigma) + 1e-4).log() - (detail(less, steering.sigma) + 1e-4).log()
    return F.relu(steering.margin - gain).mean()
