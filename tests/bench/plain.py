"""A straightforward diffusers pipeline of QUSR's steps, everything whole: what ours is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qusr_train.model.noise import NoiseParameters, injected_noise, noise_sigma, seeded_noise
from qusr_train.model.tokenizer import encode_tokens
from qusr_train.model.uncertainty import UEM
from tests.bench.meters import Stopwatch
from tests.bench.shapes import PROMPT, SCALE, random_module


class PlainPipeline:
    """Mean of the posterior, variant `reference`.

    Args:
        device, dtype: of the computation.
        folder: a diffusers folder; None takes random weights of full SD 2.1 shapes.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, folder: Path | None = None) -> None:
        parts: dict[str, Any] = {}
        if folder is None:
            parts = {kind: random_module(kind, seed) for seed, kind in enumerate(("unet", "vae", "text"))}
        else:
            from diffusers import AutoencoderKL, UNet2DConditionModel
            from transformers import CLIPTextModel

            parts["unet"] = UNet2DConditionModel.from_pretrained(folder / "unet", local_files_only=True)
            parts["vae"] = AutoencoderKL.from_pretrained(folder / "vae", local_files_only=True)
            parts["text"] = CLIPTextModel.from_pretrained(folder / "text_encoder", local_files_only=True)
        self.unet, self.vae, self.text = (parts[kind].to(device, dtype).eval() for kind in ("unet", "vae", "text"))
        torch.manual_seed(0)
        self.uem = UEM(64).to(device, dtype).eval()
        self.device, self.dtype = device, dtype

    @torch.no_grad()
    def __call__(self, image: Tensor, watch: Stopwatch) -> Tensor:
        """(1, 3, H, W) in [0, 1] -> the restored image, likewise, on the CPU."""
        x = (image * 2 - 1).to(self.device, self.dtype)
        with watch.stage("text"):
            context = self.text(encode_tokens([PROMPT]).to(self.device)).last_hidden_state
        with watch.stage("uncertainty"):
            u = self.uem(x)
        with watch.stage("encode"):
            z = self.vae.encode(x).latent_dist.mean * SCALE
        with watch.stage("encode map"):
            encoded = self.vae.encode(u).latent_dist.mean * SCALE
        sigma = noise_sigma(encoded, NoiseParameters())
        injected = injected_noise(seeded_noise(tuple(z.shape), 0).to(self.device), sigma, 0.5).to(self.dtype)
        with watch.stage("denoise"):
            eps = self.unet(z + injected, torch.ones(1, device=self.device), context).sample
        with watch.stage("decode"):
            out = self.vae.decode((z + injected - eps) / SCALE).sample
        return ((out.float() + 1) / 2).clamp(0, 1).cpu()
