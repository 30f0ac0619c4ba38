"""Everything in one node."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..qusr_train.captions.measured import measured_prompts
from ..qusr_train.images.color import COLOR_FIXES, fix_color
from ..qusr_train.presets import PRESETS, Preset
from .denoise import one_step
from .enlarge import enlarge_by
from .native.host import CheckedImage, check_image, checkpoint_interrupt, image_out, one_bar
from .native.nano import NanoLatents, load_nano_models
from .native.schema import found_by
from .native.sockets import CATEGORY, LoadedModels, LoadedUEM, TilesSocket, UEMSocket, Uncertainty, UncertaintySocket
from .noise import adaptive_noise
from .prompt import encode_tiles
from .tiles import PhotoTiles, whole_photo
from .uncertainty import estimate
from .vae import decode_latent, encode_latent

# Side and overlap of the denoiser's tiles in latent pixels. Stable Diffusion: the reference's. nano is cheap enough for
# large ones.
SD_TILE = (96, 32)
NANO_TILE = (384, 64)
STEPS = 5  # of an image: map, latent, noise, denoiser, picture


CUSTOM = "custom"


class QUSRUpscale(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        explained = ". ".join(f"{name}: {preset.text}" for name, preset in PRESETS.items())
        return io.Schema(
            node_id="QUSRUpscale",
            display_name="QUSR Upscale",
            category=CATEGORY,
            **found_by(
                "super resolution, upscale, upscaler, superres, restore photo, enhance, denoise, deblur, "
                "increase resolution, hires, 4x, seedvr2, supir, esrgan, pisa-sr, osediff"
            ),
            description=(
                "Enlarges a photo four times and restores it: quality prompt, uncertainty, adaptive noise, one-step "
                "denoiser and colour fix in one node. Works at once with the bundled qusr-nano model."
            ),
            inputs=[
                io.Image.Input("image", tooltip="The small photo. Grey, RGBA, any size and batches work."),
                io.Combo.Input(
                    "preset",
                    options=[*PRESETS, CUSTOM],
                    default="balanced",
                    tooltip=f"{explained}. custom: the strengths below.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Of the injected noise; changes fine texture.",
                ),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    default="",
                    tooltip="In your own words or from a captioner: one, or one for each image. Empty: measured.",
                ),
                io.Float.Input(
                    "strength", default=1.0, min=0.0, max=2.0, step=0.05, tooltip="Added detail (preset custom only)."
                ),
                io.Float.Input(
                    "noise_strength",
                    default=1.0,
                    min=0.0,
                    max=4.0,
                    step=0.05,
                    tooltip="Injected noise (preset custom only).",
                ),
                io.Combo.Input(
                    "color_fix", options=list(COLOR_FIXES), default="wavelet", tooltip="Keeps the colours of the photo."
                ),
                io.Model.Input(
                    "model", optional=True, tooltip="Connect all four of model, clip, vae and uem, or none."
                ),
                io.Clip.Input("clip", optional=True, tooltip="Connect all four of model, clip, vae and uem, or none."),
                io.Vae.Input("vae", optional=True, tooltip="Connect all four of model, clip, vae and uem, or none."),
                UEMSocket.Input("uem", optional=True, tooltip="Connect all four of model, clip, vae and uem, or none."),
                TilesSocket.Input(
                    "tiles",
                    optional=True,
                    tooltip="From QUSR Photo Tiles: a prompt for each tile instead of each image, also when measured.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="upscaled", is_output_list=True, tooltip="RGBA if the photo was."),
                UncertaintySocket.Output(
                    display_name="uncertainty", is_output_list=True, tooltip="For QUSR Uncertainty View."
                ),
                io.Image.Output(
                    display_name="bicubic", is_output_list=True, tooltip="The photo only enlarged, for comparison."
                ),
                io.String.Output(
                    display_name="prompt_used", is_output_list=True, tooltip="The quality prompts, one for each line."
                ),
            ],
            # A captioner gives a list of prompts: one for each image, not one whole run for each prompt.
            is_input_list=True,
        )

    @classmethod
    def execute(
        cls,
        image: list[Tensor],
        preset: list[str],
        seed: list[int],
        prompt: list[str],
        strength: list[float],
        noise_strength: list[float],
        color_fix: list[str],
        model: list[Any] | None = None,
        clip: list[Any] | None = None,
        vae: list[Any] | None = None,
        uem: list[LoadedUEM] | None = None,
        tiles: list[PhotoTiles] | None = None,
    ) -> io.NodeOutput:
        models = choose_models(
            model=model[0] if model else None,
            clip=clip[0] if clip else None,
            vae=vae[0] if vae else None,
            uem=uem[0] if uem else None,
        )
        chosen = Preset(strength[0], noise_strength[0], "") if preset[0] == CUSTOM else PRESETS[preset[0]]
        batches = [check_image(one) for one in image]
        places = [tiles[0] if tiles else whole_photo(one.rgb) for one in batches]
        parts = [place.cut(one.rgb) for one, place in zip(batches, places, strict=True)]
        prompts = share_prompts(prompt, parts, "tiles" if tiles else "images")
        results = [
            upscale_batch(one, texts, place, models, chosen, seed[0], color_fix[0])
            for one, texts, place in zip(batches, prompts, places, strict=True)
        ]
        return io.NodeOutput(*(list(column) for column in zip(*results, strict=True)))


def choose_models(**given: Any) -> LoadedModels:
    """The connected model, clip, vae and uem, or the bundled ones when none is connected.

    Raises:
        ValueError: only some are connected.
    """
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return load_nano_models()
    if missing:
        raise ValueError(
            f"{', '.join(missing)}: not connected; connect model, clip, vae and uem of the same loader, "
            "or none of them to use the bundled qusr-nano"
        )
    return LoadedModels(**given)


def share_prompts(prompts: list[str], batches: list[Tensor], what: str = "images") -> list[list[str]]:
    """Give every image (or tile of one) its prompt: one for all, one for each, or measured where it is empty.

    Raises:
        ValueError: another number of prompts.
    """
    total = sum(batch.shape[0] for batch in batches)
    if len(prompts) not in (1, total):
        raise ValueError(f"prompt: got {len(prompts)} prompts for {total} {what}; give one, or one for each")
    waiting = iter(prompts if len(prompts) == total else prompts * total)
    shared = []
    for batch in batches:
        texts = [next(waiting) for _ in range(batch.shape[0])]
        if not all(text.strip() for text in texts):
            texts = [text if text.strip() else own for text, own in zip(texts, measured_prompts(batch), strict=True)]
        shared.append(texts)
    return shared


def denoiser_tile(model: Any, samples: Tensor) -> tuple[int, int]:
    """Tile and overlap for a latent; (0, 0) when it is small enough to go through whole."""
    tile, overlap = NANO_TILE if isinstance(model.model.latent_format, NanoLatents) else SD_TILE
    return (tile, overlap) if samples.shape[-2] * samples.shape[-1] > tile * tile else (0, 0)


def upscale_batch(
    image: CheckedImage,
    prompts: list[str],
    tiles: PhotoTiles,
    models: LoadedModels,
    preset: Preset,
    seed: int,
    color_fix: str,
) -> tuple[Tensor, Uncertainty, Tensor, str]:
    """Upscale one batch four times; the images go through one by one, so memory does not grow with the batch.

    `prompts` has one for each tile: those of the first image, then of the next.

    Returns:
        Upscaled IMAGE, uncertainty, bicubic IMAGE, and the prompts as lines.
    """
    vae, uem = models.vae, models.uem
    parameters = dataclasses.replace(uem.noise, p=uem.noise.p * preset.noise)
    results, enlarged, maps = [], [], []
    batch, count = image.rgb.shape[0], len(tiles.windows)
    with one_bar(STEPS * batch) as bar:
        for index in range(batch):
            checkpoint_interrupt()
            bicubic = enlarge_by(image.rgb[index : index + 1], 4.0)
            uncertainty = estimate(bicubic, uem)
            bar.update(1)
            latent = encode_latent(vae, image_out(bicubic))
            bar.update(1)
            noise = adaptive_noise(vae, uncertainty, seed, parameters)
            bar.update(1)
            tile, overlap = denoiser_tile(models.model, latent["samples"])
            texts = prompts[index * count : (index + 1) * count]
            conditioning = encode_tiles(models.clip, texts, dataclasses.replace(tiles, images=1)).conditioning
            restored = one_step(models.model, conditioning, latent, noise, tile, overlap, preset.strength)
            bar.update(1)
            pixels = check_image(decode_latent(vae, restored), "decoded image").rgb
            results.append(fix_color(pixels, bicubic.to(pixels), color_fix))
            enlarged.append(bicubic)
            maps.append(uncertainty.map)
            bar.update(1)
    alpha = None if image.alpha is None else enlarge_by(image.alpha, 4.0)
    return (
        image_out(torch.cat(results), alpha),
        Uncertainty(torch.cat(maps), uem.noise, uem.latent_scale),
        image_out(torch.cat(enlarged)),
        "\n".join(prompts),
    )
