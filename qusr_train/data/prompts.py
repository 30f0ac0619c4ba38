"""Prompts for training: other words for what the measured captioner says, and what it would say were it never wrong."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from ..captions import measured as quality
from .degraded import Degraded

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
