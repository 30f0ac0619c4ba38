"""The named places on the dial from faithful to detailed, for the node QUSR Upscale and the command `restore`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """What a preset's name stands for."""

    detail: float
    """Place on the dial, 0 to 1, of a model with a faithful base: nano's LoRA strength, PiSA-SR's semantic strength."""
    residual: float
    """Share of the predicted residual. Below 1 only for a model without such a base, which has no other way back."""
    noise: float
    """Factor of the injected noise: 0 none, 1 as trained."""
    text: str
    """For tooltips and help."""

    def residual_share(self, has_base: bool) -> float:
        """The share of the residual, for a model with or without a faithful base."""
        return max(1.0, self.residual) if has_base else self.residual


PRESETS = {
    "balanced": Preset(1.0, 1.0, 1.0, "as trained"),
    "faithful": Preset(0.0, 0.6, 0.0, "no added detail, no noise, closest to the photo"),
    "crisp": Preset(1.0, 1.25, 1.0, "more detail than trained, may exaggerate"),
}
DEFAULT_PRESET = "balanced"
