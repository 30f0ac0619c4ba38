"""The named places on the dial from faithful to detailed, for the node QUSR Upscale and the command `restore`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """What a preset's name stands for."""

    strength: float
    """How much of the trained detail is added: 0 none, 1 as trained."""
    noise: float
    """Factor of the injected noise: 0 none, 1 as trained."""
    text: str
    """For tooltips and help."""


PRESETS = {
    "balanced": Preset(1.0, 1.0, "as trained"),
    "faithful": Preset(0.6, 0.0, "less added detail, no noise, closest to the photo"),
    "crisp": Preset(1.25, 1.0, "more detail than trained, may exaggerate"),
}
DEFAULT_PRESET = "balanced"
