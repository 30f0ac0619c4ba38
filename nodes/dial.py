"""How much QUSR Upscale adds: the dial, or a preset."""

from __future__ import annotations

from comfy_api.latest import io

from ..qusr_train.presets import PRESETS
from .native.comfy_types import MODEL
from .native.dial import Turned, has_base, turn

DIAL, CUSTOM = "dial", "custom"


def preset_input() -> io.Input:
    """The choice between the dial, the presets and the two strengths."""
    explained = ". ".join(f"{name}: {preset.text}" for name, preset in PRESETS.items())
    return io.Combo.Input(
        "preset",
        options=[DIAL, *PRESETS, CUSTOM],
        default=DIAL,
        tooltip=f"dial: set detail, from fidelity to detail. {explained}. custom: set strength and noise_strength.",
    )


def detail_input() -> io.Input:
    """The dial itself."""
    return io.Float.Input(
        "detail",
        default=1.0,
        min=0.0,
        max=1.0,
        step=0.05,
        optional=True,
        display_mode=io.NumberDisplay.slider,
        tooltip="From fidelity (0, closest to the photo) to detail (1, as trained). For the preset dial.",
    )


def chosen(model: MODEL, preset: str, detail: float, strength: float, noise_strength: float) -> Turned:
    """The MODEL with the shares of residual and noise that a preset, the dial or the two strengths come to."""
    if preset == DIAL:
        return turn(model, detail)
    if preset == CUSTOM:
        return Turned(model, strength, noise_strength)
    named, base = PRESETS[preset], has_base(model)
    placed = turn(model, named.detail).model if base else model
    return Turned(placed, named.residual_share(base), named.noise)
