"""Restore photos with qusr-nano without ComfyUI: the whole chain on plain tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .captions.measured import measured_prompts
from .checkpoints.nano_file import BUNDLED, NanoCheckpoint, load_nano
from .images.check import enlarge
from .images.color import fix_color
from .images.read import read_image
from .images.write import write_png
from .model.lora import merge
from .model.nano import NanoUNet, PixelUnshuffleVAE
from .model.noise import guided_step, seeded_noise
from .model.text_encoder import build_text_encoder
from .model.tokenizer import encode_tokens
from .model.uncertainty import estimate_uncertainty


@dataclass(frozen=True)
class Restored:
    """Result for a batch of images."""

    image: Tensor
    """(B, 3, H, W) in [0, 1], enlarged and restored."""
    bicubic: Tensor
    """(B, 3, H, W) in [0, 1], only enlarged."""
    uncertainty: Tensor
    """(B, 3, H, W), the raw map U."""
    prompts: list[str]
    """The quality prompt used for each image."""


class Restorer:
    """qusr-nano, loaded and ready.

    Args:
        checkpoint: a loaded model; the bundled one by default.
        device: where to run.
        lora_strength: scale of the LoRA updates.
    """

    def __init__(
        self, checkpoint: NanoCheckpoint | None = None, device: str | torch.device = "cpu", lora_strength: float = 1.0
    ) -> None:
        self.checkpoint = checkpoint = checkpoint or load_nano(BUNDLED)
        self.device = torch.device(device)
        self.unet = NanoUNet(checkpoint.config)
        self.unet.load_state_dict(checkpoint.unet)
        merge(self.unet, checkpoint.lora, lora_strength)
        self.uem = checkpoint.config.build_uem()
        self.uem.load_state_dict(checkpoint.uem)
        self.text_encoder: nn.Module = build_text_encoder(checkpoint.config, checkpoint.text_encoder)
        self.vae = PixelUnshuffleVAE(checkpoint.config.shuffle)
        for part in (self.unet, self.uem, self.text_encoder):
            part.to(self.device).eval()
        self.unet.to(memory_format=torch.channels_last)  # a quarter less time on the CPU

    @torch.inference_mode()
    def __call__(
        self,
        image: Tensor,
        prompt: str | None = None,
        seed: int = 0,
        noise: Tensor | None = None,
        color_fix: str = "wavelet",
    ) -> Restored:
        """Enlarge four times and restore.

        Args:
            image: (B, 3, h, w) in [0, 1].
            prompt: quality prompt for every image; None measures each image.
            seed: of the injected noise; the same for every image of a batch.
            noise: (B, C, h, w) standard normal to use instead of the seed's.
            color_fix: `wavelet`, `adain` or `none`.
        """
        shuffle = self.checkpoint.config.shuffle
        prompts = measured_prompts(image) if prompt is None else [prompt] * image.shape[0]
        bicubic = enlarge(image, image.shape[-2] * shuffle, image.shape[-1] * shuffle).clamp(0, 1)
        x_lq = (bicubic * 2 - 1).to(self.device)
        context = self.text_encoder(input_ids=encode_tokens(prompts).to(self.device)).last_hidden_state
        u = estimate_uncertainty(self.uem, x_lq)
        z_lq = self.vae.encode(x_lq) * self.checkpoint.latent_scale
        u_encoded = self.vae.encode(u) * self.checkpoint.latent_scale
        normal = (seeded_noise(tuple(z_lq.shape), seed) if noise is None else noise).to(self.device)
        z_hq = guided_step(z_lq, u_encoded, normal, self.checkpoint.noise, lambda z_g: self.unet(z_g, context=context))
        restored = (self.vae.decode(z_hq / self.checkpoint.latent_scale) + 1) / 2
        restored = fix_color(restored.clamp(0, 1).cpu(), bicubic, color_fix).clamp(0, 1)
        return Restored(restored, bicubic, u.cpu(), prompts)


def restore_file(restorer: Restorer, source: Path, target: Path, prompt: str | None, seed: int) -> None:
    """Restore one picture file into a PNG; an alpha channel is enlarged and kept."""
    image = read_image(source)
    result = restorer(image.rgb, prompt=prompt, seed=seed)
    alpha = None
    if image.alpha is not None:
        alpha = enlarge(image.alpha, *result.image.shape[-2:]).clamp(0, 1)[0]
    write_png(target, result.image[0], alpha)
