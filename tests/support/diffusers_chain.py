"""QUSR's and PiSA-SR's one step with diffusers' own models on the golden weights: what ComfyUI's results must equal."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qusr_train.checkpoints.load import load_checkpoint
from qusr_train.checkpoints.qusr_file import QUSRCheckpoint
from qusr_train.model.lora import LoraLayer
from qusr_train.model.noise import injected_noise, noise_sigma, seeded_noise

from .golden import GOLDEN

SCALE = 0.18215
TIMESTEP = 1


@dataclass(frozen=True)
class Chain:
    """The frozen models, and a file of tests/golden/checkpoints."""

    vae: Any
    unet: Any
    checkpoint: QUSRCheckpoint

    @classmethod
    def load(cls, name: str) -> Chain:
        from diffusers import AutoencoderKL, UNet2DConditionModel

        vae, unet = (
            kind.from_pretrained(GOLDEN / "model" / part).float().eval()
            for kind, part in ((AutoencoderKL, "vae"), (UNet2DConditionModel, "unet"))
        )
        return cls(vae, unet, load_checkpoint(GOLDEN / "checkpoints" / f"{name}.pkl"))

    def _mean(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> posterior mean in the denoiser's latent space."""
        return self.vae.encode(x).latent_dist.mean * SCALE

    def _eps(self, z: Tensor, embeds: Tensor, *loras: dict[str, LoraLayer]) -> Tensor:
        unet = copy.deepcopy(self.unet)
        for lora in loras:
            for name, layer in lora.items():
                unet.get_submodule(name).weight.add_(layer.delta())
        return unet(z, TIMESTEP, encoder_hidden_states=embeds.expand(z.shape[0], -1, -1)).sample

    @torch.no_grad()
    def qusr(self, rgb: Tensor, embeds: Tensor, seed: int) -> Tensor:
        """Restored latent (B, 4, h, w), scaled, of an enlarged photo (B, 3, H, W) in [0, 1]."""
        x = rgb * 2 - 1
        noise = self.checkpoint.noise
        sigma = noise_sigma(self._mean(self.checkpoint.build_uem()(x)), noise)
        z = self._mean(x) + injected_noise(seeded_noise(tuple(sigma.shape), seed), sigma, noise.p)
        return z - self._eps(z, embeds, self.checkpoint.lora)

    @torch.no_grad()
    def pisa_sr(self, rgb: Tensor, embeds: Tensor, pixel: float, semantic: float) -> Tensor:
        """Like `qusr`, in PiSA-SR's adjustable mode."""
        z = self._mean(rgb * 2 - 1)
        both = self._eps(z, embeds, self.checkpoint.pixel_lora, self.checkpoint.lora)
        pixels = self._eps(z, embeds, self.checkpoint.pixel_lora)
        return z - pixel * pixels - semantic * (both - pixels)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Scaled latent -> (B, 3, H, W) in [0, 1]."""
        return self.vae.decode(z / SCALE).sample.clamp(-1, 1) / 2 + 0.5
