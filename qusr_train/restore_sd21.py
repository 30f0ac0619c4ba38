"""Restore photos with QUSR, PiSA-SR or OSEDiff on SD 2.1-base, without ComfyUI."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from .captions.measured import measured_prompts
from .checkpoints.load import load_checkpoint
from .checkpoints.qusr_file import Method, QUSRCheckpoint
from .errors import InputError, RunError
from .images.check import enlarge
from .images.color import fix_color
from .images.memory import free_memory, refuse_too_large
from .images.tiling import Blend, blend_tiles
from .model.denoiser_tiles import OVERLAP, choose_tile
from .model.diffusers_vae import diffusers_layers
from .model.exact_vae import ExactVAE
from .model.lora import LoraLayer, added, merge
from .model.noise import NoiseParameters, guided_step, seeded_noise
from .model.schedule import alpha_bar
from .model.stable_diffusion import StableDiffusion, load_stable_diffusion
from .model.uncertainty import UEM, estimate_uncertainty
from .model.winograd import fast_convolutions
from .out_of_memory import halve_until_it_fits
from .restore import Restored

log = logging.getLogger(__name__)

BLOCK = 8
"""Pixels per latent pixel and side."""
POSTERIORS = ("mean", "sample")
SMALLEST_LATENT_TILE, SMALLEST_VAE_TILE, FIRST_VAE_TILE = 32, 128, 1024

Result = TypeVar("Result")


@dataclass(frozen=True)
class Tiles:
    """How a large image is taken apart; 0 leaves it to the memory and the work, see `choose_tile`."""

    latent: int = 0
    """Side of the denoiser's tiles in latent pixels, blended with the reference's weights (its side: 96)."""
    overlap: int = OVERLAP
    """Of the denoiser's tiles, in latent pixels, at most half a tile."""
    vae: int = 0
    """Side of the VAE's tiles in image pixels. They are exact: the same as whole."""

    def __post_init__(self) -> None:
        if self.latent < 0 or self.overlap < 0:
            raise InputError(f"tile and overlap must be at least 0, but got {self.latent} and {self.overlap}", "tile")
        if self.vae < 0 or self.vae % BLOCK:
            raise InputError(f"must be 0 or a multiple of {BLOCK}, but got {self.vae}", "vae_tile")


@dataclass
class SD21Restorer:
    """A restorer, loaded and ready; `load_sd21_restorer` makes one from files."""

    base: StableDiffusion
    """Its UNet (and for OSEDiff its VAE) with the fine-tuning in it."""
    uem: UEM | None
    """None for methods without one."""
    noise: NoiseParameters
    method: Method = "qusr"
    timestep: int = 1
    second_pass: dict[str, LoraLayer] | None = None
    """PiSA-SR's semantic LoRA when its strengths are set: then it stays out of the UNet's weights."""
    pixel: float = 1.0
    """PiSA-SR's pixel-level strength, with `second_pass`."""
    semantic: float = 1.0
    """PiSA-SR's semantic strength, with `second_pass`."""
    tiles: Tiles = Tiles()
    scale: float = 4.0
    """How much an image is enlarged first; 1 takes it as it is."""
    posterior: str = "mean"
    """`mean` of the VAE's posterior, as ComfyUI takes it, or a `sample`, as the authors' code draws it."""
    color_fix: str = "wavelet"
    """`wavelet`, `adain` or `none`."""
    each_tile: Callable[[], None] = lambda: None
    """Called after every tile."""

    @torch.no_grad()
    def __call__(self, image: Tensor, prompt: str | None = None, seed: int = 0) -> Restored:
        """Enlarge and restore, image by image.

        Args:
            image: (B, 3, h, w) in [0, 1], any size.
            prompt: quality prompt for every image; None measures each image (PiSA-SR: the empty prompt it is
                trained with).
            seed: of all draws; the same for every image of a batch.

        Raises:
            RuntimeError: NaN in the result, or out of memory with the smallest tiles.
            ImageError: the result does not fit into the memory.
        """
        if prompt is None:
            prompts = [""] * len(image) if self.method == "pisa-sr" else measured_prompts(image)
        else:
            prompts = [prompt] * len(image)
        size = [max(1, round(side * self.scale)) for side in image.shape[-2:]]
        refuse_too_large(size[1], size[0], len(image) * self._bytes_each())
        bicubic = image if self.scale == 1 else enlarge(image, *size).clamp(0, 1)
        with fast_convolutions():
            results = [self._one(bicubic[i : i + 1], prompts[i], seed) for i in range(len(image))]
        restored = fix_color(torch.cat([x for x, _ in results]), bicubic, self.color_fix).clamp(0, 1)
        maps = [u for _, u in results if u is not None]
        return Restored(restored, bicubic, torch.cat(maps) if maps else None, prompts)

    def _bytes_each(self) -> int:
        """Memory for a pixel of the result, at the least: five pictures, and on the CPU two planes of the VAE."""
        vae, on_cpu = self.base.vae, self.base.device.type == "cpu"
        return 5 * 12 + on_cpu * 2 * vae.config.block_out_channels[0] * vae.dtype.itemsize

    def _one(self, bicubic: Tensor, prompt: str, seed: int) -> tuple[Tensor, Tensor | None]:
        """(1, 3, H, W) in [0, 1] -> the restored image, likewise, and the raw map."""
        base, device = self.base, self.base.device
        height, width = bicubic.shape[-2:]
        shape = (1, 4, -(-height // BLOCK), -(-width // BLOCK))
        for_image, for_map, normal = self._draws(shape, seed)
        x_lq = (bicubic * 2 - 1).to(device)
        context = base.encode_text([prompt])
        z_lq = self._encode(x_lq, for_image)
        u = None if self.uem is None else estimate_uncertainty(self.uem, x_lq)
        u_encoded = self._encode(u, for_map) if u is not None and self.noise.p > 0 else None

        def denoise(z: Tensor) -> Tensor:
            return halve_until_it_fits(
                lambda tile: self._eps(z, context, tile), self._latent_tile(z), max(shape[-2:]) // 2,
                SMALLEST_LATENT_TILE, place="denoiser", unit="latent pixels",
            )  # fmt: skip

        if self.method == "osediff":  # x0 of an epsilon model; QUSR and PiSA-SR subtract eps itself
            share = alpha_bar(self.timestep)
            z_hq = (z_lq - math.sqrt(1 - share) * denoise(z_lq)) / math.sqrt(share)
        else:
            z_hq = guided_step(z_lq, u_encoded, normal, self.noise, denoise)
        decoded = self._decode(z_hq)
        # Before they are clamped: infinite pixels would become white ones.
        if not torch.isfinite(decoded).all() or (u is not None and not torch.isfinite(u).all()):
            raise RunError("the result has NaN or infinite values; use --dtype float32 (or bfloat16)")
        restored = ((decoded + 1) / 2).clamp(0, 1)[:, :, :height, :width]
        return restored.cpu(), None if u is None else u.cpu()

    def _draws(self, shape: tuple[int, ...], seed: int) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """Standard normal for the image's posterior, the map's posterior, and equation 7."""
        device = self.base.device
        if self.posterior == "mean":
            return None, None, seeded_noise(shape, seed).to(device)
        generator = torch.Generator().manual_seed(seed)
        count = 2 + (self.uem is not None and self.noise.p > 0)
        draws = [torch.randn(shape, generator=generator).to(device) for _ in range(count)]
        return draws[0], draws[1], draws[-1]

    def _encode(self, x: Tensor, posterior_noise: Tensor | None) -> Tensor:
        """(1, 3, H, W) in about [-1, 1], any size -> scaled latent (1, 4, h, w)."""
        base = self.base
        padded = F.pad(x, (0, -x.shape[-1] % BLOCK, 0, -x.shape[-2] % BLOCK), mode="replicate")

        def attempt(tile: int) -> tuple[Tensor, Tensor]:
            if not tile:
                return base.moments(padded)
            mean, log_variance = self._exact(tile).moments(padded).float().to(base.device).chunk(2, dim=1)
            return mean, torch.exp(0.5 * log_variance.clamp(-30.0, 20.0))

        mean, std = self._with_vae_tiles(attempt, max(padded.shape[-2:]))
        latent = mean if posterior_noise is None else mean + std * posterior_noise
        return latent * base.latent_scale

    def _decode(self, z: Tensor) -> Tensor:
        """Scaled latent (1, 4, h, w) -> (1, 3, 8h, 8w), about [-1, 1]."""
        base = self.base

        def attempt(tile: int) -> Tensor:
            return self._exact(tile).decode(z / base.latent_scale).float() if tile else base.decode_unclamped(z)

        return self._with_vae_tiles(attempt, max(z.shape[-2:]) * BLOCK)

    def _exact(self, tile: int) -> ExactVAE:
        vae = self.base.vae
        return ExactVAE(diffusers_layers(vae), tile, self.base.device, vae.dtype, self.each_tile)

    def _with_vae_tiles(self, attempt: Callable[[int], Result], longest: int) -> Result:
        tile = self.tiles.vae if self.tiles.vae < longest else 0
        first = min(longest // 2, FIRST_VAE_TILE)
        return halve_until_it_fits(attempt, tile, first, SMALLEST_VAE_TILE, place="VAE", unit="pixels")

    def _latent_tile(self, z: Tensor) -> int:
        if self.tiles.latent:
            return self.tiles.latent
        height, width = z.shape[-2:]
        return choose_tile(height, width, free_memory(z.device), self.base.unet.dtype.itemsize, self.tiles.overlap)

    def _eps(self, z: Tensor, context: Tensor, tile: int) -> Tensor:
        """The UNet's prediction for (1, 4, h, w), in tiles of a size or whole (0)."""
        if not tile or tile >= max(z.shape[-2:]):
            eps = self._predict(z, context)
            self.each_tile()
            return eps
        overlap = min(self.tiles.overlap, tile // 2)
        blend: Blend = "gaussian" if self.tiles.latent else "smooth"
        return blend_tiles(z, lambda window, _: self._predict(window, context), tile, overlap, self.each_tile, blend)

    def _predict(self, z: Tensor, context: Tensor) -> Tensor:
        unet = self.base.unet
        timestep = torch.full((len(z),), self.timestep, device=z.device)

        def once() -> Tensor:
            prompt = context.to(unet.dtype)
            return unet(z.to(unet.dtype), timestep, encoder_hidden_states=prompt).sample.float()

        if self.second_pass is None:
            return once()
        without = once()
        with added(unet, self.second_pass):
            full = once()
        return self.pixel * without + self.semantic * (full - without)


def load_sd21_restorer(
    model: Path,
    base: Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    strength: float = 1.0,
    pixel: float = 1.0,
    semantic: float = 1.0,
) -> SD21Restorer:
    """Put a file of QUSR, PiSA-SR or OSEDiff onto SD 2.1-base.

    Args:
        model: our `.safetensors`, or the authors' `.pkl` (no code in it is run).
        base: SD 2.1-base, a folder in diffusers' form or a single file.
        device, dtype: of the computation.
        strength: scale of the LoRA, 1 as trained.
        pixel, semantic: PiSA-SR's two strengths; both 1 take one pass, anything else two.

    Raises:
        ValueError: a file that cannot be used, or the two do not fit.
    """
    checkpoint = load_checkpoint(model)
    return put_on(checkpoint, load_stable_diffusion(base, "base"), device, dtype, strength, pixel, semantic)


def put_on(
    checkpoint: QUSRCheckpoint,
    base: StableDiffusion,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    strength: float = 1.0,
    pixel: float = 1.0,
    semantic: float = 1.0,
) -> SD21Restorer:
    """Add a checkpoint to a base, which is changed; see `load_sd21_restorer`."""
    adjusted = (pixel, semantic) != (1.0, 1.0)
    if adjusted and not checkpoint.pixel_lora:
        raise InputError(
            f"only PiSA-SR files have the two LoRA of pixel and semantic, but this one is {checkpoint.method}; leave "
            "both at 1 and use strength",
            "pixel",
        )
    try:
        for name, weight in checkpoint.base_weights.items():  # first: the LoRA is trained on top of them
            base.unet.get_parameter(name).data.copy_(weight)
        merge(base.unet, checkpoint.pixel_lora, strength)
        if not adjusted:
            merge(base.unet, checkpoint.lora, strength)
        merge(base.vae, checkpoint.vae_lora, strength)
    except (ValueError, AttributeError, RuntimeError) as error:
        raise InputError(f"the file was trained on SD 2.1-base, which this is not ({error})", "base") from error
    base.to(torch.device(device), dtype)
    second = {n: LoraLayer(la.down, la.up, la.alpha * strength) for n, la in checkpoint.lora.items()}
    return SD21Restorer(
        base=base,
        uem=checkpoint.build_uem().to(device).eval() if checkpoint.uem else None,
        noise=checkpoint.noise,
        method=checkpoint.method,
        timestep=checkpoint.timestep,
        second_pass=second if adjusted else None,
        pixel=pixel,
        semantic=semantic,
    )
