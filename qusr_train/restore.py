"""Restore photos with qusr-nano without ComfyUI: the whole chain on plain tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from .checkpoint import BUNDLED, NanoCheckpoint, load_nano, text_encoder_config
from .color import fix_color
from .files import write_whole
from .images import CheckedImage, ImageError, check_image, enlarge
from .lora import merge
from .nano import NanoConfig, NanoUNet, PixelUnshuffleVAE
from .noise import injected_noise, noise_sigma, residual_step, seeded_noise
from .prompt import encode_tokens
from .quality import measured_prompts
from .uncertainty import UEM, estimate_uncertainty


def build_text_encoder(config: NanoConfig, state: dict[str, Tensor] | None = None) -> Any:
    """The small CLIP text model of transformers (4.x or 5.x), in evaluation mode when weights are given."""
    from transformers import CLIPTextConfig, CLIPTextModel

    encoder = CLIPTextModel(CLIPTextConfig(**text_encoder_config(config)))
    if state is not None:
        prefix = "text_model." if any(k.startswith("text_model.") for k in encoder.state_dict()) else ""
        missing, unexpected = encoder.load_state_dict({prefix + k: v for k, v in state.items()}, strict=False)
        wrong = [key for key in missing if "position_ids" not in key] + list(unexpected)
        if wrong:
            raise ValueError(f"text encoder: keys do not fit: {', '.join(wrong[:5])}")
        encoder.eval()
    return encoder


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
        self.uem = UEM(checkpoint.config.uem_channels)
        self.uem.load_state_dict(checkpoint.uem)
        self.text_encoder: nn.Module = build_text_encoder(checkpoint.config, checkpoint.text_encoder)
        self.vae = PixelUnshuffleVAE(checkpoint.config.shuffle)
        for part in (self.unet, self.uem, self.text_encoder):
            part.to(self.device).eval()

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
        parameters = self.checkpoint.noise
        prompts = measured_prompts(image) if prompt is None else [prompt] * image.shape[0]
        bicubic = enlarge(image, image.shape[-2] * shuffle, image.shape[-1] * shuffle).clamp(0, 1)
        x_lq = (bicubic * 2 - 1).to(self.device)
        context = self.text_encoder(input_ids=encode_tokens(prompts).to(self.device)).last_hidden_state
        u = estimate_uncertainty(self.uem, x_lq)
        z_lq = self.vae.encode(x_lq) * self.checkpoint.latent_scale
        sigma = noise_sigma(self.vae.encode(u) * self.checkpoint.latent_scale, parameters)
        normal = seeded_noise(tuple(z_lq.shape), seed) if noise is None else noise
        injected = injected_noise(normal.to(self.device), sigma, parameters.p)
        z_g = z_lq + injected
        eps = self.unet(z_g, context=context)
        z_hq = residual_step(z_g, eps, injected, parameters.variant)
        restored = (self.vae.decode(z_hq / self.checkpoint.latent_scale) + 1) / 2
        restored = fix_color(restored.clamp(0, 1).cpu(), bicubic, color_fix).clamp(0, 1)
        return Restored(restored, bicubic, u.cpu(), prompts)


def read_image(path: Path) -> CheckedImage:
    """Read a picture file: any Pillow mode, orientation applied, 16-bit grey kept to its range.

    Raises:
        ImageError: not a readable image.
    """
    try:
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened)
            if picture.mode.startswith("I"):
                array = np.asarray(picture, dtype=np.float32)[..., None] / 65535.0
            elif picture.mode == "F":  # float TIFF, by convention in [0, 1]
                array = np.asarray(picture, dtype=np.float32)[..., None]
            else:
                has_alpha = picture.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info
                array = np.asarray(picture.convert("RGBA" if has_alpha else "RGB"), dtype=np.float32) / 255.0
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path}: cannot be read as an image ({error})") from error
    return check_image(torch.from_numpy(np.array(array))[None], str(path))


def write_png(path: Path, rgb: Tensor, alpha: Tensor | None = None) -> None:
    """Write (3, H, W) in [0, 1], with (1, H, W) alpha if given; the file appears whole or not at all."""
    x = rgb if alpha is None else torch.cat([rgb, alpha])
    array = (x.clamp(0, 1) * 255.0).round().byte().permute(1, 2, 0).cpu().numpy()
    with write_whole(path) as temporary:
        Image.fromarray(array).save(temporary, "PNG")


def restore_file(restorer: Restorer, source: Path, target: Path, prompt: str | None, seed: int) -> None:
    """Restore one picture file into a PNG; an alpha channel is enlarged and kept."""
    image = read_image(source)
    result = restorer(image.rgb, prompt=prompt, seed=seed)
    alpha = None
    if image.alpha is not None:
        alpha = enlarge(image.alpha, *result.image.shape[-2:]).clamp(0, 1)[0]
    write_png(target, result.image[0], alpha)
