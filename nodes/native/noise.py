"""Adaptive noise as ComfyUI's NOISE object."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...qusr_train.model.noise import SeedRule, image_seed, injected_noise, seeded_noise
from .comfy_types import LATENT
from .host import match_batch


@dataclass(frozen=True)
class AdaptiveNoise:
    """ComfyUI's NOISE protocol: `seed` and `generate_noise(latent)`; lives in the scaled latent space."""

    seed: int
    sigma: Tensor
    """(B, C, h, w), from `noise_sigma`."""
    p: float
    seeds: SeedRule = "fixed"
    """How the images of a batch get their seeds, see `image_seed`."""

    def generate_noise(self, input_latent: LATENT) -> Tensor:
        """Injected noise eps * sigma * p for a LATENT; its `batch_index` says which images of a batch these are.

        Raises:
            ValueError: the latent's size or batch differs from the uncertainty map's.
        """
        samples = input_latent["samples"]
        noise = torch.empty(samples.shape)
        for index in range(samples.shape[0]):
            noise[index : index + 1] = self.of_image(input_latent, index)
        return noise

    def of_image(self, input_latent: LATENT, index: int) -> Tensor:
        """(1, C, h, w): the noise of one image of a LATENT, so that a long video's never lies in memory as a whole."""
        samples = input_latent["samples"]
        sigma = match_batch(self.sigma, samples.shape[0], "uncertainty", "latent")
        if sigma.shape != samples.shape:
            raise ValueError(
                f"uncertainty: its latent map is {tuple(sigma.shape[1:])} but the latent is {tuple(samples.shape[1:])} "
                "(channels, height, width); compute the uncertainty on the same enlarged image that VAE Encode gets, "
                "and use the same VAE for both"
            )
        place = (input_latent.get("batch_index") or range(samples.shape[0]))[index]
        seed = image_seed(self.seed, place, self.seeds)
        return injected_noise(seeded_noise((1, *samples.shape[1:]), seed), sigma[index : index + 1], self.p)
