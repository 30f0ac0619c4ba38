"""Adaptive noise as ComfyUI's NOISE object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...qusr_train.model.noise import injected_noise, seeded_noise
from .host import match_batch


@dataclass(frozen=True)
class AdaptiveNoise:
    """ComfyUI's NOISE protocol: `seed` and `generate_noise(latent)`; lives in the scaled latent space."""

    seed: int
    sigma: Tensor
    """(B, C, h, w), from `noise_sigma`."""
    p: float

    def generate_noise(self, input_latent: dict[str, Any]) -> Tensor:
        """Injected noise eps * sigma * p for a LATENT.

        Raises:
            ValueError: the latent's size or batch differs from the uncertainty map's.
        """
        samples = input_latent["samples"]
        sigma = match_batch(self.sigma, samples.shape[0], "uncertainty", "latent")
        if sigma.shape != samples.shape:
            raise ValueError(
                f"uncertainty: its latent map is {tuple(sigma.shape[1:])} but the latent is {tuple(samples.shape[1:])} "
                "(channels, height, width); compute the uncertainty on the same enlarged image that VAE Encode gets, "
                "and use the same VAE for both"
            )
        return injected_noise(seeded_noise(tuple(samples.shape), self.seed), sigma, self.p)
