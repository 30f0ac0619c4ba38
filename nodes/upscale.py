"""Everything in one node."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..qusr_train.captions.measured import measured_prompts
from ..qusr_train.images.color import COLOR_FIXES, fix_color
from ..qusr_train.model.denoiser_tiles import OVERLAP, choose_tile
from ..qusr_train.model.noise import SeedRule, image_seed
from .denoise import one_step
from .dial import chosen, detail_input, preset_input
from .enlarge import LONGEST_SIDE, MEGAPIXELS, TRAINED, enlarge_to, size_inputs, size_value
from .native.comfy_types import CLIP, MODEL, VAE
from .native.dial import Turned
from .native.host import CheckedImage, Stack, check_image, checkpoint_interrupt, image_out, one_bar
from .native.nano import NanoLatents, load_nano_models
from .native.room import room
from .native.schema import found_by
from .native.sockets import CATEGORY, LoadedModels, LoadedUEM, TilesSocket, UEMSocket, Uncertainty, UncertaintySocket
from .native.tiled_model import Tiling
from .native.vae import decode_latent, encode_latent
from .noise import adaptive_noise, seeds_input
from .photo_guide import guide_by_photo
from .prompt import encode_tiles
from .tiles import PhotoTiles, whole_photo
from .uncertainty import estimate

NANO_TILES = Tiling(384)  # latent pixels; nano is cheap enough for large ones, and its bounded reach needs no overlap
STEPS = 5  # of an image: map, latent, noise, denoiser, picture


@dataclass(frozen=True)
class Job:
    """What is the same for every image."""

    models: LoadedModels
    turned: Turned
    seed: int
    seeds: SeedRule
    color_fix: str
    size: str
    """Rule of `target_size`, with its `value`."""
    value: float


class QUSRUpscale(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        factor = io.Float.Input(
            "factor",
            default=4.0,
            min=1.0,
            max=16.0,
            step=0.25,
            optional=True,
            tooltip=f"Factor of both sides, for size: factor. {TRAINED}",
        )
        return io.Schema(
            node_id="QUSRUpscale",
            display_name="QUSR Upscale",
            category=CATEGORY,
            **found_by(
                "super resolution, upscale, upscaler, superres, restore photo, enhance, denoise, deblur, "
                "increase resolution, hires, 4x, seedvr2, supir, esrgan, pisa-sr, osediff"
            ),
            description=(
                "Enlarges a photo, four times or to any size, and restores it: quality prompt, uncertainty, adaptive "
                "noise, one-step denoiser and colour fix in one node. Works at once with the bundled qusr-nano model."
            ),
            inputs=[
                io.Image.Input("image", tooltip="The small photo. Grey, RGBA, any size and batches work."),
                preset_input(),
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
                    "strength", default=1.0, min=0.0, max=2.0, step=0.05, tooltip="Added detail, for the preset custom."
                ),
                io.Float.Input(
                    "noise_strength",
                    default=1.0,
                    min=0.0,
                    max=4.0,
                    step=0.05,
                    tooltip="Injected noise, for the preset custom.",
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
                seeds_input(),
                detail_input(),
                *size_inputs([factor]),
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
        model: list[MODEL] | None = None,
        clip: list[CLIP] | None = None,
        vae: list[VAE] | None = None,
        uem: list[LoadedUEM] | None = None,
        tiles: list[PhotoTiles] | None = None,
        seeds: list[SeedRule] | None = None,
        detail: list[float] | None = None,
        size: list[str] | None = None,
        factor: list[float] | None = None,
        longest_side: list[int] | None = None,
        megapixels: list[float] | None = None,
    ) -> io.NodeOutput:
        models = choose_models(
            model=model[0] if model else None,
            clip=clip[0] if clip else None,
            vae=vae[0] if vae else None,
            uem=uem[0] if uem else None,
        )
        rule = size[0] if size else "factor"
        job = Job(
            models=models,
            turned=chosen(models.model, preset[0], detail[0] if detail else 1.0, strength[0], noise_strength[0]),
            seed=seed[0],
            seeds=seeds[0] if seeds else "fixed",
            color_fix=color_fix[0],
            size=rule,
            value=size_value(
                rule,
                factor[0] if factor else 4.0,
                longest_side[0] if longest_side else LONGEST_SIDE,
                megapixels[0] if megapixels else MEGAPIXELS,
            ),
        )
        batches = [check_image(one) for one in image]
        places = [tiles[0] if tiles else whole_photo(one.rgb) for one in batches]
        parts = [place.cut(one.rgb) for one, place in zip(batches, places, strict=True)]
        prompts = share_prompts(prompt, parts, "tiles" if tiles else "images")
        firsts = [sum(one.rgb.shape[0] for one in batches[:index]) for index in range(len(batches))]
        results = [
            upscale_batch(one, texts, place, job, first)
            for one, texts, place, first in zip(batches, prompts, places, firsts, strict=True)
        ]
        return io.NodeOutput(*(list(column) for column in zip(*results, strict=True)))


def choose_models(**given: Any) -> LoadedModels:
    """The connected model, clip, vae and uem, or the bundled ones when none is connected.

    Raises:
        ValueError: only some are connected, or model and vae do not belong together.
    """
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return load_nano_models()
    if missing:
        raise ValueError(
            f"{', '.join(missing)}: not connected; connect model, clip, vae and uem of the same loader, "
            "or none of them to use the bundled qusr-nano"
        )
    models = LoadedModels(**given)
    made, wanted = models.vae.latent_channels, models.model.model.latent_format.latent_channels
    if made != wanted:
        raise ValueError(
            f"vae: makes latents of {made} channels, but the model takes {wanted}; connect model, clip, vae and uem of "
            "the same loader"
        )
    return models


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


def denoiser_tiling(model: MODEL, samples: Tensor) -> Tiling:
    """Tiles for a latent; none when it goes through whole."""
    height, width = samples.shape[-2:]
    if isinstance(model.model.latent_format, NanoLatents):
        return NANO_TILES if height * width > NANO_TILES.tile**2 else Tiling()
    tile = choose_tile(height, width, room(model), model.model.get_dtype().itemsize)
    return Tiling(tile, OVERLAP, "smooth") if tile else Tiling()


def upscale_batch(
    image: CheckedImage, prompts: list[str], tiles: PhotoTiles, job: Job, first: int = 0
) -> tuple[Tensor, Uncertainty, Tensor, str]:
    """Upscale one batch; the images go through one by one, so memory does not grow with the batch.

    `prompts` has one for each tile: those of the first image, then of the next. `first` is the place of this batch's
    first image among all of them, for the seeds.

    Returns:
        Upscaled IMAGE, uncertainty, bicubic IMAGE, and the prompts as lines.
    """
    models, model, vae, uem = job.models, job.turned.model, job.models.vae, job.models.uem
    parameters = dataclasses.replace(uem.noise, p=uem.noise.p * job.turned.noise)
    batch, count = image.rgb.shape[0], len(tiles.windows)
    results, enlarged, maps = Stack(batch), Stack(batch), Stack(batch)
    with one_bar(STEPS * batch) as bar:
        for index in range(batch):
            checkpoint_interrupt()
            bicubic = enlarge_to(image.rgb[index : index + 1], job.size, job.value)
            uncertainty = estimate(bicubic, uem)
            bar.update(1)
            latent = encode_latent(vae, image_out(bicubic))
            bar.update(1)
            noise = adaptive_noise(vae, uncertainty, image_seed(job.seed, first + index, job.seeds), parameters)
            bar.update(1)
            tiling = denoiser_tiling(model, latent["samples"])
            texts = prompts[index * count : (index + 1) * count]
            conditioning = encode_tiles(models.clip, texts, dataclasses.replace(tiles, images=1)).conditioning
            conditioning = guide_by_photo(model, conditioning, bicubic)
            restored = one_step(model, conditioning, latent, noise, tiling, job.turned.residual)
            bar.update(1)
            pixels = check_image(decode_latent(vae, restored), "decoded image").rgb
            fixed = fix_color(pixels, bicubic.to(pixels), job.color_fix)
            alpha = None if image.alpha is None else enlarge_to(image.alpha[index : index + 1], job.size, job.value)
            results.append(image_out(fixed, alpha))
            enlarged.append(image_out(bicubic))
            maps.append(uncertainty.map)
            bar.update(1)
    return (
        results.whole,
        dataclasses.replace(uncertainty, map=maps.whole),
        enlarged.whole,
        "\n".join(prompts),
    )
