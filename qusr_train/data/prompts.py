"""Prompts for training: what the measured captioner says or would say were it never wrong, in several wordings."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from ..captions import measured as quality
from .choices import Choices
from .degraded import Applied

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
OPENINGS = ("", "The image has ", "a photo with ")
"""Before a few words, as people type them."""


@dataclass(frozen=True)
class PromptShares:
    """How often a training prompt is what."""

    empty: float = 0.12
    few_words: float = 0.15
    """Clarity, perhaps noise and artifacts, as people type them: "sharp, slight noise"."""
    part: float = 0.15
    """Some of the caption's sentences."""
    true_short: float = 0.85
    """Of few words and parts: saying what was done instead of what is measured, so that words steer."""
    true_full: float = 0.4
    """The same of whole captions, which mostly stay what the captioner will say."""


def paraphrase(prompt: str, choices: Choices) -> str:
    """Vary a measured caption's wording, so that the model also reads prompts people and Qwen write."""
    for phrase, others in SYNONYMS.items():
        choice = choices.below(len(others) + 2)  # the captioner's own words twice as often as another's
        if choice >= 2 and phrase in prompt:
            prompt = prompt.replace(phrase, others[choice - 2])
    return prompt


def true_quality(measured: quality.Quality, applied: Applied) -> quality.Quality:
    """What the captioner would have measured, were it never wrong and did it see what can be undone.

    A prompt must tell the model more than the picture does, or the model learns not to read it.
    """
    return dataclasses.replace(
        measured, blur_x=applied.blur, blur_y=applied.blur, noise=applied.noise, chroma_noise=0.0,
        blocking=float(100 - applied.quality),
    )  # fmt: skip


def training_prompt(
    measured: quality.Quality, applied: Applied | None, generator: torch.Generator, shares: PromptShares
) -> str:
    """The prompt of one training pair.

    Args:
        measured: of the low-resolution picture.
        applied: what was done to it, where that is known.
        generator: every random choice comes from it.
        shares: how often what.
    """
    choices = Choices(generator)
    if choices.chance(shares.empty):
        return ""
    kind = choices.uniform(0, 1)
    few, part = kind < shares.few_words, kind < shares.few_words + shares.part
    true = choices.chance(shares.true_short if part else shares.true_full)
    words = true_quality(measured, applied) if applied is not None and true else measured
    if few:
        return _few_words(words, choices)
    text = paraphrase(quality.describe(words), choices)
    if part:
        sentences = text.rstrip(".").split(". ")
        kept = [sentence for sentence in sentences if choices.chance(0.6)] or sentences[:1]
        text = ". ".join(choices.shuffled(kept)) + "."
    return text


def _few_words(words: quality.Quality, choices: Choices) -> str:
    clarity = quality.CLARITY_WORDS[quality.level(words.blur, quality.BLUR_LEVELS)]
    parts = [choices.one_of((clarity, clarity.split(", ")[-1]))]
    if choices.chance(0.6):
        parts.append(quality.NOISE_WORDS[quality.level(words.noise, quality.NOISE_LEVELS)])
    if choices.chance(0.3):
        parts.append(quality.BLOCKING_WORDS[quality.level(words.blocking, quality.BLOCKING_LEVELS)])
    return choices.one_of(OPENINGS) + ", ".join(choices.shuffled(parts))
