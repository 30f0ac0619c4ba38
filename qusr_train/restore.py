"""Restore photos without ComfyUI: the whole chain on plain tensors, here with qusr-nano.

`restore_sd21.py` does the same with SD 2.1.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from .captions.measured import measured_prompts
from .checkpoints.format import CheckpointError
from .checkpoints.nano_file import BUNDLED, NanoCheckpoint, load_nano
from .errors import InputError, RunError
from .images.check import enlarge
from .images.color import fix_color
from .images.map_file import write_map
from .images.memory import refuse_too_large
from .images.read import read_image
from .images.tiling import Tile, exact_tiles
from .images.write import write_png
from .model.lora import merge
from .model.nano import NanoUNet, PixelUnshuffleVAE
from .model.noise import Spread, even_sigma, guided_step, seeded_noise
from .model.text_encoder import build_text_encoder
from .model.tokenizer import encode_tokens
from .model.uncertainty import estimate_uncertainty

TILE = 256
"""Latent pixels of a tile's side: larger pictures go through in parts, which bounds the memory and changes nothing."""


BYTES_EACH = 120
"""Memory for each pixel of the result, an estimate: measured 168 at 1440 x 1440, a share of it the tile's own."""


@dataclass(frozen=True)
class Restored:
    """Result for a batch of images."""

    image: Tensor
    """(B, 3, H, W) in [0, 1], enlarged and restored."""
    bicubic: Tensor
    """(B, 3, H, W) in [0, 1], only enlarged."""
    uncertainty: Tensor | None
    """(B, 3, H, W), the raw map U; None for methods without one."""
    prompts: list[str]
    """The quality prompt used for each image."""
    expected_error: Tensor | None = None
    """(B, H, W), the map as expected absolute error in grey levels; None for a model whose map has no unit."""


class RestoresPhotos(Protocol):
    """nano's `Restorer`, or `SD21Restorer`."""

    def __call__(self, image: Tensor, prompt: str | None = None, seed: int = 0) -> Restored: ...


class Restorer:
    """qusr-nano, loaded and ready.

    Args:
        checkpoint: a loaded model; the bundled one by default.
        device: where to run.
        lora_strength: scale of the LoRA updates.
        noise_strength: factor of the injected noise, at least 0; 0 injects none.
        spread: of the noise; see `model.noise.Spread`.
        residual: share of the predicted residual: 1 as trained, 0 none.
    """

    def __init__(
        self,
        checkpoint: NanoCheckpoint | None = None,
        device: str | torch.device = "cpu",
        lora_strength: float = 1.0,
        noise_strength: float = 1.0,
        spread: Spread = "adaptive",
        residual: float = 1.0,
    ) -> None:
        self.checkpoint = checkpoint = checkpoint or load_nano(BUNDLED)
        strength = 0.0 if spread == "none" else noise_strength
        self.noise = dataclasses.replace(checkpoint.noise, p=checkpoint.noise.p * strength)
        self.spread, self.residual = spread, residual
        self.device = torch.device(device)
        self.unet = NanoUNet(checkpoint.config)
        self.uem = checkpoint.config.build_uem()
        try:
            self.unet.load_state_dict(checkpoint.unet)
            self.uem.load_state_dict(checkpoint.uem)
        except RuntimeError as error:
            raise CheckpointError(f"the weights do not fit the model's own description ({error})") from error
        merge(self.unet, checkpoint.lora, lora_strength)
        self.text_encoder: nn.Module = build_text_encoder(checkpoint.config, checkpoint.text_encoder)
        self.vae = PixelUnshuffleVAE(checkpoint.config.shuffle)
        for part in (self.unet, self.uem, self.text_encoder):
            part.to(self.device).eval()
        for network in (self.unet, self.uem):
            network.to(memory_format=torch.channels_last)  # a quarter less time on the CPU

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

        Raises:
            RunError: NaN in the result.
            ImageError: the result does not fit into the memory.
        """
        shuffle = self.checkpoint.config.shuffle
        refuse_too_large(image.shape[-1] * shuffle, image.shape[-2] * shuffle, image.shape[0] * BYTES_EACH)
        prompts = measured_prompts(image) if prompt is None else [prompt] * image.shape[0]
        bicubic = enlarge(image, image.shape[-2] * shuffle, image.shape[-1] * shuffle).clamp_(0, 1)
        x_lq = bicubic.to(self.device).mul(2).sub_(1)
        context = self.text_encoder(input_ids=encode_tokens(prompts).to(self.device)).last_hidden_state
        u = estimate_uncertainty(self.uem, x_lq)
        z_lq = self.vae.encode(x_lq).mul_(self.checkpoint.latent_scale)
        del x_lq
        normal = (seeded_noise(tuple(z_lq.shape), seed) if noise is None else noise).to(self.device)
        even = None
        if self.spread == "uniform":
            even = even_sigma(self.vae.encode(u).mul_(self.checkpoint.latent_scale), self.noise)

        def step(window: Tensor, place: Tile) -> Tensor:
            u_encoded = self.vae.encode(place.scaled(shuffle).of(u)).mul_(self.checkpoint.latent_scale)
            denoise = partial(self.unet, context=context)
            restored = guided_step(window, u_encoded, place.of(normal), self.noise, denoise, even)
            return restored if self.residual == 1 else torch.lerp(window, restored, self.residual)

        z_hq = exact_tiles(z_lq, step, TILE, self.unet.receptive_radius)
        del z_lq
        restored = self.vae.decode(z_hq.div_(self.checkpoint.latent_scale)).cpu().add_(1).div_(2)
        del z_hq
        if not torch.isfinite(restored.sum()):  # a third of the time of a look at each value
            raise RunError(
                "the result has NaN or infinite values: the model's weights are too large for this picture, or the "
                "device overflows; use another model file",
                field="model",
            )
        restored = fix_color(restored.clamp_(0, 1), bicubic, color_fix).clamp(0, 1)
        meaning = self.checkpoint.map_calibration
        return Restored(restored, bicubic, u.cpu(), prompts, None if meaning is None else meaning.grey_levels(u).cpu())


def restore_file(
    restorer: RestoresPhotos, source: Path, target: Path, prompt: str | None, seed: int, map_file: Path | None = None
) -> None:
    """Restore one picture file into a PNG; an alpha channel is enlarged and kept.

    Args:
        map_file: where the expected errors in grey levels go, see `images.map_file`.

    Raises:
        InputError: `map_file` with a model whose map has no unit.
    """
    image = read_image(source)
    result = restorer(image.rgb, prompt=prompt, seed=seed)
    alpha = None
    if image.alpha is not None:
        alpha = enlarge(image.alpha, *result.image.shape[-2:]).clamp(0, 1)[0]
    if map_file is not None:
        if result.expected_error is None:
            raise InputError("the model's map has no unit, so it cannot be written in grey levels", "maps")
        write_map(map_file, result.expected_error[0].numpy())
    write_png(target, result.image[0], alpha)
