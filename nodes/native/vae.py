"""Encoding and decoding images of any size with a native VAE: whole, in exact tiles, or in ComfyUI's blended ones."""

from __future__ import annotations

import math
from collections.abc import Callable

import comfy.ldm.models.autoencoder
import comfy.ldm.modules.diffusionmodules.model as modules
import comfy.model_management
import torch
from torch import Tensor

from ...qusr_train.model.exact_vae import ExactVAE
from ...qusr_train.model.noise import seeded_noise
from .comfy_types import LATENT, VAE
from .cpu import vae_kernels
from .exact_vae import native_layers
from .host import checkpoint_interrupt, progress
from .oom import WHOLE, halve_until_it_fits

FIRST_TILE, SMALLEST_TILE = 1024, 128  # image pixels
LEAST_TILE, MOST_TILE = 64, 8192  # what may be asked for


def pad_to_block(images: Tensor, block: int) -> Tensor:
    """Repeat the last row and column of (B, H, W, C) until both sides are multiples of the VAE's block."""
    height, width = images.shape[1:3]
    rows = torch.arange(height + -height % block, device=images.device).clamp(max=height - 1)
    columns = torch.arange(width + -width % block, device=images.device).clamp(max=width - 1)
    return images if height == len(rows) and width == len(columns) else images[:, rows][:, :, columns]


def is_stable_diffusion(vae: VAE) -> bool:
    """Whether a VAE is built like Stable Diffusion's, which the exact tiles know layer by layer."""
    model = vae.first_stage_model
    return (
        type(model) is comfy.ldm.models.autoencoder.AutoencoderKL
        and type(model.encoder) is modules.Encoder
        and type(model.decoder) is modules.Decoder
        and isinstance(model.encoder.conv_in, torch.nn.Conv2d)
        and model.bn is None
        and not any(len(level.attn) for level in [*model.encoder.down, *model.decoder.up])
        and not model.decoder.tanh_out
        and not getattr(model.decoder, "give_pre_end", False)  # gone since ComfyUI 0.3.77
    )


def encode(
    vae: VAE, images: Tensor, tile: int = WHOLE, mode: str = "exact", posterior_noise: Tensor | None = None
) -> Tensor:
    """Encode images one by one, so that memory does not grow with the batch.

    Args:
        vae: any native VAE; the exact tiles need Stable Diffusion's.
        images: IMAGE (B, H, W, 3) in [0, 1], any size: it is padded to whole blocks of the VAE. Values
            outside [0, 1] are kept (an uncertainty map is encoded like an image).
        tile: side in image pixels; 0 takes the image whole, and falls back to tiles when memory is short.
        mode: `exact` or `blended`, how tiles are joined.
        posterior_noise: (B, C, h, w), standard normal: sample the posterior, as the reference code does.
            None takes its mean, as ComfyUI does.

    Returns:
        (B, C, h, w), unscaled, float32.

    Raises:
        ValueError: the VAE has no posterior to sample from.
        RuntimeError: out of memory with the smallest tile, or NaN in the result.
    """
    block = vae.spacial_compression_encode()
    images = pad_to_block(images[..., :3], block)
    known = is_stable_diffusion(vae)
    if posterior_noise is not None and (not known or mode == "blended"):
        raise ValueError("posterior: only Stable Diffusion's VAE, whole or with exact tiles, can sample; choose mean")
    results = []
    for index in range(images.shape[0]):
        checkpoint_interrupt()
        image = images[index : index + 1]
        if not known or (tile and mode == "blended"):
            # ComfyUI also takes half of a tile and leaves a quarter out: all of these must be whole blocks.
            side = max(4 * block, tile // (4 * block) * (4 * block))
            results.append(vae.encode_tiled(image, side, side, _overlap(side)) if tile else vae.encode(image))
            continue
        mean, log_variance = _moments(vae, image, tile).chunk(2, dim=1)
        if posterior_noise is not None:
            noise = posterior_noise[index : index + 1].to(mean)
            mean = mean + noise * torch.exp(0.5 * log_variance.clamp(-30.0, 20.0))
        results.append(mean)
    latents = torch.cat([result.float().cpu() for result in results])
    if not torch.isfinite(latents).all():
        raise RuntimeError(
            "vae: the latent has NaN or infinite values; the VAE overflows in half precision on this device (start "
            "ComfyUI with --fp32-vae), or its file is damaged"
        )
    return latents.to(comfy.model_management.intermediate_device())


def decode(vae: VAE, latents: Tensor, tile: int = WHOLE, mode: str = "exact") -> Tensor:
    """Decode latents one by one.

    Args:
        vae: any native VAE; the exact tiles need Stable Diffusion's.
        latents: (B, C, h, w), unscaled.
        tile: side in image pixels, see `encode`.
        mode: `exact` or `blended`.

    Returns:
        IMAGE (B, H, W, 3) in [0, 1], float32.

    Raises:
        RuntimeError: out of memory with the smallest tile, or NaN in the result.
    """
    known = is_stable_diffusion(vae)
    results = []
    for index in range(latents.shape[0]):
        checkpoint_interrupt()
        latent = latents[index : index + 1]
        block = vae.spacial_compression_decode()
        if not known or (tile and mode == "blended"):
            side = max(1, tile // block)
            image = vae.decode_tiled(latent, side, side, _overlap(side)) if tile else vae.decode(latent)
        else:
            pixels = _decoded(vae, latent, tile).float()
            # `process_output` clamps: infinite pixels would become white ones.
            image = vae.process_output(torch.where(pixels.isinf(), math.nan, pixels)).movedim(1, -1)
        if not torch.isfinite(image).all():
            raise RuntimeError(
                "vae: the decoded image has NaN or infinite values; the VAE overflows in half precision on this "
                "device. Start ComfyUI with --fp32-vae"
            )
        results.append(image.cpu())
    return torch.cat(results).to(comfy.model_management.intermediate_device())


def _overlap(tile: int) -> int:
    return tile // 4


def _moments(vae: VAE, image: Tensor, tile: int) -> Tensor:
    pixels = vae.process_input(vae.vae_encode_crop_pixels(image).movedim(-1, 1))
    model = vae.first_stage_model

    def whole() -> Tensor:
        return model.quant_conv(model.encoder(pixels.to(vae.device, vae.vae_dtype)))

    def memory(side: int) -> float:
        height, width = (min(n, side) if side else n for n in pixels.shape[-2:])
        return vae.memory_used_encode((1, 3, height, width), vae.vae_dtype)

    def tiled(exact: ExactVAE) -> Tensor:
        return exact.moments(pixels)

    sweeps = native_layers(model).encoder.sweeps + 1  # quant_conv
    return _as_memory_allows(vae, sweeps, tile, pixels.shape[-2:], whole, tiled, memory)


def _decoded(vae: VAE, latent: Tensor, tile: int) -> Tensor:
    model, block = vae.first_stage_model, vae.spacial_compression_decode()
    size = torch.Size(n * block for n in latent.shape[-2:])

    def whole() -> Tensor:
        return model.decode(latent.to(vae.device, vae.vae_dtype))

    def memory(side: int) -> float:
        height, width = (-(-(min(n, side) if side else n) // block) for n in size)
        return vae.memory_used_decode((1, latent.shape[1], height, width), vae.vae_dtype)

    def tiled(exact: ExactVAE) -> Tensor:
        return exact.decode(latent)

    return _as_memory_allows(vae, native_layers(model).decoder.sweeps, tile, size, whole, tiled, memory)


def _as_memory_allows(
    vae: VAE,
    sweeps: int,
    tile: int,
    size: torch.Size,
    whole: Callable[[], Tensor],
    tiled: Callable[[ExactVAE], Tensor],
    memory: Callable[[int], float],
) -> Tensor:
    """Run whole, or with tiles that are halved as long as the device's memory is short."""

    def attempt(tile: int) -> Tensor:
        comfy.model_management.load_models_gpu([vae.patcher], memory_required=memory(tile))
        if tile == WHOLE:
            return whole().cpu()
        bar = progress(sweeps * math.prod(-(-side // tile) for side in size), "tiles")

        def each() -> None:
            bar.update(1)
            checkpoint_interrupt()

        return tiled(ExactVAE(native_layers(vae.first_stage_model), tile, vae.device, vae.vae_dtype, each))

    first = min(FIRST_TILE, max(size) // 2)
    tile = WHOLE if tile >= max(size) else tile
    with vae_kernels(vae):
        return halve_until_it_fits(attempt, tile, first, SMALLEST_TILE, place="vae", unit="pixels")


def check_tile(tile: int) -> None:
    if tile != WHOLE and not LEAST_TILE <= tile <= MOST_TILE:
        raise ValueError(
            f"tile: expected 0 (whole) or at least {LEAST_TILE} image pixels, {MOST_TILE} at most, but got {tile!r:.50}"
        )


def encode_latent(vae: VAE, rgb: Tensor, tile: int = WHOLE, mode: str = "exact", seed: int | None = None) -> LATENT:
    """LATENT of an IMAGE that remembers the image's size; a seed samples the posterior."""
    check_tile(tile)
    noise = None
    if seed is not None:
        block = vae.spacial_compression_encode()
        height, width = (-(-side // block) for side in rgb.shape[1:3])
        noise = seeded_noise((rgb.shape[0], vae.latent_channels, height, width), seed)
    return {"samples": encode(vae, rgb, tile, mode, noise), "qusr_size": (rgb.shape[1], rgb.shape[2])}


def decode_latent(vae: VAE, latent: LATENT, tile: int = WHOLE, mode: str = "exact") -> Tensor:
    """IMAGE of a LATENT, without the rows and columns that `encode_latent` added."""
    check_tile(tile)
    samples = latent["samples"]
    if samples.ndim != 4 or samples.shape[1] != vae.latent_channels or 0 in samples.shape:
        raise ValueError(
            f"latent: expected (batch, {vae.latent_channels}, height, width) for this VAE, but got "
            f"{tuple(samples.shape)}; connect the VAE of the model that the latent is from"
        )
    image = decode(vae, samples, tile, mode)
    height, width = latent["qusr_size"] if "qusr_size" in latent else (image.shape[1], image.shape[2])
    block = vae.spacial_compression_decode()
    if image.shape[1] - height in range(block) and image.shape[2] - width in range(block):
        image = image[:, :height, :width]  # unless a node in between resized the latent
    return image
