"""Prompts for training: other words for what the measured captioner says, and what it would say were it never wrong."""

from __future__ import annotations

import dataclasses

import torch

from ..captions import measured as quality
from .choices import Choices
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
    choices = Choices(generator)
    for phrase, others in SYNONYMS.items():
        choice = choices.below(len(others) + 1)
        if choice and phrase in prompt:
            prompt = prompt.replace(phrase, others[choice - 1])
    return prompt


def true_quality(measured: quality.Quality, degraded: Degraded) -> quality.Quality:
    """What the captioner would have measured on `degraded.lr`, were it never wrong.

    A prompt must tell the model more than the picture does, or the model learns not to read it. What the
    degradation does not know stays as it was measured.
    """
    known: dict[str, float] = {"blocking": 100.0 - degraded.quality}
    if degraded.blur is not None:
        known |= {"blur_x": degraded.blur, "blur_y": degraded.blur}
    if degraded.noise is not None:
        known |= {"noise": degraded.noise, "chroma_noise": 0.0}
    return dataclasses.replace(measured, **known)
