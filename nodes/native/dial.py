"""The dial from fidelity to detail: every MODEL of ours says itself what a turn means for it.

| model               | 0, fidelity                   | between                            | 1 |
|---------------------|-------------------------------|------------------------------------|---|
| nano                | its base alone, no noise      | LoRA strength and noise            | as loaded |
| PiSA-SR             | its pixel-level LoRA alone    | semantic strength                  | as loaded |
| QUSR, OSEDiff, CODSR | the enlarged photo           | share of the predicted residual    | as loaded |

The last three have no base to fall back to: without its LoRA, Stable Diffusion predicts noise and not a residual, so a
weaker LoRA would make the picture worse instead of more faithful (measured: tests/bench/RESULTS.md, the dial).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .comfy_types import MODEL

_KEY = "qusr_dial"


@dataclass(frozen=True)
class Turned:
    """What a position of the dial comes to."""

    model: MODEL
    residual: float = 1.0
    """Share of the predicted residual that is added."""
    noise: float = 1.0
    """Factor of the injected noise."""


Dial = Callable[[MODEL, float], Turned]
"""From a MODEL and the detail in [0, 1)."""


def attach_dial(model: MODEL, dial: Dial) -> None:
    """Give a cloned MODEL its dial."""
    model.set_attachments(_KEY, dial)


def fade_residual(model: MODEL, detail: float) -> Turned:
    """The dial of a model that has no faithful base."""
    return Turned(model, residual=detail)


def has_base(model: MODEL) -> bool:
    """Whether a MODEL has a faithful base, so that its dial does more than fade the residual."""
    return model.get_attachment(_KEY) not in (None, fade_residual)


def turn(model: MODEL, detail: float) -> Turned:
    """Set a MODEL's dial. 1 changes nothing at all.

    Args:
        model: from one of our loaders.
        detail: 0 (fidelity: closest to the photo) to 1 (detail: as loaded).

    Raises:
        ValueError: detail outside [0, 1].
    """
    if not 0 <= detail <= 1:
        raise ValueError(f"detail: expected 0 (fidelity) to 1 (detail), but got {detail}")
    if detail == 1:
        return Turned(model)
    dial: Dial = model.get_attachment(_KEY) or fade_residual
    return dial(model, detail)
