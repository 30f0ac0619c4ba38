"""Synthetic camera degradations: a sharp photo becomes a pair of low and high resolution.

Two cameras look at the same scene. Defocus and the lens's own softness are in both pictures and are not to be
undone; the low-resolution one has more blur, drawn separately, which is. A pair reports that part alone,
since a prompt is to say what can be undone. Mild on purpose, about a sixth is heavy. Deterministic for
a generator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .choices import Choices
from .degraded import SCALE, Applied, Degraded
from .filters import filter_image, gaussian_kernel, sinc_kernel
from .sensor import recorded, reduced, sharpened


def _blurred(x: Tensor, sigma_x: float, sigma_y: float, angle: float) -> Tensor:
    return filter_image(x, gaussian_kernel(sigma_x, sigma_y, angle, 2 * math.ceil(3 * max(sigma_x, sigma_y)) + 1))


@dataclass(frozen=True)
class Cameras:
    """How the two cameras see. Blurs are standard deviations in pixels of the target."""

    soft: float = 0.85
    """Share of targets that are softer than the photo."""
    out_of_focus: float = 0.65
    """Share of those that are out of focus as well."""
    defocus: float = 5.0
    """The most of that."""
    strong: float = 0.2
    """Share of inputs with much blur of their own."""
    usual: tuple[float, float] = (0.6, 2.4)
    """Range of the others' blur."""
    heavy: float = 0.15
    """Share of inputs that are bad in every way: blur, noise, JPEG."""


USUAL = Cameras()
SHARP = Cameras(soft=0.3, out_of_focus=0.35, defocus=3.0, strong=0.5)
"""Targets are mostly the photo itself: for a model that is to make pictures crisp."""
MILD = Cameras(strong=0.06, usual=(0.3, 1.8), heavy=0.08)
"""Little is to be undone: a model that learned from the usual ones sharpens RealSR's pictures by a third too much."""


def degrade(photo: Tensor, generator: torch.Generator, scale: int = SCALE, cameras: Cameras = USUAL) -> Degraded:
    """Make a training pair from one photo.

    Args:
        photo: (1, 3, H, W) in [0, 1], sharp; H and W multiples of `scale`.
        generator: every random choice comes from it.
        scale: downscaling factor.
        cameras: how they see.
    """
    choices = Choices(generator)
    uniform, chance = choices.uniform, choices.chance
    height, width = photo.shape[-2] // scale, photo.shape[-1] // scale
    unit = scale / 4  # the ranges below are pixels of the photo for four-fold pairs
    heavy = chance(cameras.heavy)
    amount, radius = uniform(0.1, 0.9) if chance(0.5) else 0.0, uniform(0.5, 1.2)

    softness, hr = 0.0, photo
    if chance(cameras.soft):
        defocus = uniform(0.5, cameras.defocus) if chance(cameras.out_of_focus) else 0.0
        softness = math.hypot(defocus, uniform(0.3, 1.3)) * unit
        hr = _blurred(photo, softness, softness, 0.0)
        if amount:
            hr = sharpened(hr, amount, radius)
        hr = hr.clamp(0, 1)

    usual = cameras.usual if chance(1 - cameras.strong) else (2.0, 4.2)
    removable = uniform(*((1.0, 5.0) if heavy else usual))
    ratio = uniform(0.7, 1.0) if chance(0.3) else 1.0
    sigma_x, sigma_y = (math.hypot(softness, removable * unit * share) for share in (1.0, ratio))
    x = _blurred(photo, sigma_x, sigma_y, uniform(0, math.pi))
    if chance(0.05):
        x = filter_image(x, sinc_kernel(uniform(math.pi / 4, math.pi / 2)))
    x = reduced(x, height, width, choices)
    if chance(0.3):  # two cameras never agree on tone
        gains = torch.tensor([uniform(0.985, 1.015) for _ in range(3)])
        x = x.clamp(0, 1) ** uniform(0.97, 1.03) * gains.view(1, 3, 1, 1)
    x, noise, quality = recorded(x, choices, heavy, 0.7 * amount, radius, noisy=0.6)
    return Degraded(x, hr, Applied(removable * math.sqrt(ratio) / 4, noise, quality))
