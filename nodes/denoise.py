"""The one step: z_hq from the guided latent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

import comfy.conds
import comfy.model_management
import comfy.samplers
import torch
from comfy_api.latest import io
from torch import Tensor

from ..qusr_train.images.tiling import BLENDS, Blend, count_tiles
from .native.comfy_types import CONDITIONING, LATENT, MODEL, NOISE
from .native.host import checkpoint_interrupt, progress
from .native.oom import WHOLE, halve_until_it_fits
from .native.sampling import is_one_step
from .native.schema import advanced, found_by
from .native.sockets import CATEGORY
from .native.tiled_model import Tiling, reach, tiled_model

SMALLEST_TILE, MOST_TILE = 32, 4096  # latent pixels
AUTOMATIC: Final = "automatic"
WITHOUT_TILES = Tiling()


def one_step(
    model: MODEL,
    conditioning: CONDITIONING,
    latent: LATENT,
    noise: NOISE,
    tiling: Tiling = WITHOUT_TILES,
    strength: float = 1.0,
) -> LATENT:
    """Run the denoiser's single step through ComfyUI's own sampler, image by image.

    Args:
        model: MODEL from a QUSR loader.
        conditioning: one prompt, or one for each latent of the batch.
        latent: LATENT, unscaled.
        noise: NOISE.
        tiling: when memory is short, its tile is halved and the step tried again.
        strength: 1 the full residual, 0 none.

    Returns:
        A LATENT with everything else of the input kept.

    Raises:
        ValueError: the inputs do not belong together.
        RuntimeError: NaN in the result, or out of memory with the smallest tile.
    """
    if not is_one_step(model):
        raise ValueError(
            "model: is not a one-step QUSR model, so one step would return a broken image; "
            "connect the model output of QUSR Nano Loader or QUSR Loader"
        )
    samples = latent["samples"]
    wanted = model.model.latent_format.latent_channels
    if samples.ndim != 4 or samples.shape[1] != wanted or 0 in samples.shape:
        raise ValueError(
            f"latent: expected (batch, {wanted}, height, width) for this model, but got {tuple(samples.shape)}; "
            "encode the image with the VAE that belongs to the model"
        )
    if not conditioning:
        raise ValueError("conditioning: is empty; connect the conditioning of QUSR Encode Prompt")
    batch, prompts = samples.shape[0], conditioning[0][0].shape[0]
    if prompts not in (1, batch):
        raise ValueError(
            f"conditioning: holds {prompts} prompts for {batch} latents; use one prompt, or one for each image"
        )
    noise_of = noise_by_image(noise, latent)
    mask = latent.get("noise_mask")
    restored = torch.empty(samples.shape, device=comfy.model_management.intermediate_device())
    for index in range(batch):
        checkpoint_interrupt()
        one = slice(index, index + 1)
        result = _restore_one(
            model,
            _one_of(conditioning, one, batch),
            samples[one],
            noise_of(index),
            mask if mask is None or mask.shape[0] != batch else mask[one],
            noise.seed,
            tiling,
            index,
            batch,
        )
        restored[one] = result if strength == 1.0 else torch.lerp(samples[one].to(result), result, strength)
    return {**latent, "samples": restored}


def noise_by_image(noise: NOISE, latent: LATENT) -> Callable[[int], Tensor]:
    """The noise (1, C, h, w) of each image of a LATENT: one at a time if the NOISE can, else cut from the whole."""
    if hasattr(noise, "of_image"):
        return lambda index: noise.of_image(latent, index)
    whole = noise.generate_noise(latent)
    return lambda index: whole[index : index + 1]


def _one_of(conditioning: CONDITIONING, one: slice, batch: int) -> CONDITIONING:
    """One image's share of a CONDITIONING with one prompt, or a prompt for each."""
    own = conditioning[0][0].shape[0] == batch

    def share(value: Any) -> Any:
        if isinstance(value, dict):  # model_conds
            return {key: share(part) for key, part in value.items()}
        if isinstance(value, comfy.conds.CONDRegular):
            return type(value)(value.cond[one]) if value.cond.shape[0] == batch else value
        return value[one] if own and isinstance(value, Tensor) and value.ndim and value.shape[0] == batch else value

    return [
        [text[one] if own else text, {key: share(value) for key, value in extra.items()}]
        for text, extra in conditioning
    ]


def _restore_one(
    model: MODEL,
    conditioning: CONDITIONING,
    sample: Tensor,
    injected: Tensor,
    mask: Tensor | None,
    seed: int,
    tiling: Tiling,
    index: int,
    batch: int,
) -> Tensor:
    """The image of that index in a batch of that size."""
    size = (sample.shape[-2], sample.shape[-1])

    def attempt(tile: int) -> Tensor:
        overlap = tiling.overlap if tile == tiling.tile else tiling.overlap or tile // 4
        overlap = min(overlap, tile // 2)
        tiles = count_tiles(*size, tile, 0 if reach(model) else overlap) if tile else 1
        bar = progress(tiles * batch, "tiles")
        bar.update_absolute(tiles * index)

        def each() -> None:
            bar.update(1)
            checkpoint_interrupt()

        guider = comfy.samplers.CFGGuider(
            tiled_model(model, Tiling(tile, overlap, tiling.blend), each) if tile else model
        )
        guider.inner_set_conds({"positive": conditioning})
        restored = guider.sample(
            injected,
            sample,
            comfy.samplers.ksampler("euler"),
            torch.tensor([1.0, 0.0]),
            denoise_mask=mask,
            disable_pbar=True,
            seed=seed,
        ).to(comfy.model_management.intermediate_device())
        if tile == WHOLE:
            each()
        return restored

    tile = tiling.tile if 0 < tiling.tile < max(size) else WHOLE
    restored = halve_until_it_fits(attempt, tile, max(size) // 2, SMALLEST_TILE, place="model", unit="latent pixels")
    if not torch.isfinite(restored).all():
        raise RuntimeError(
            "model: the result has NaN or infinite values; the model overflows in half precision on this device. "
            "Start ComfyUI with --force-fp32 or --fp32-unet"
        )
    return restored


class QUSROneStepDenoise(io.ComfyNode):
    @classmethod
    @advanced("tile", "overlap", "blend")
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="QUSROneStepDenoise",
            display_name="QUSR One-Step Denoise",
            category=CATEGORY,
            **found_by("denoise, denoiser, sampler, ksampler, one step, super resolution, upscale, tiled diffusion"),
            description="Adds the noise, predicts the residual once and subtracts it (paper equations 1-2 and 7).",
            inputs=[
                io.Model.Input("model", tooltip="From a QUSR loader."),
                io.Conditioning.Input(
                    "conditioning", tooltip="The encoded quality prompt: one, or one for each image or tile."
                ),
                io.Latent.Input("latent", tooltip="The enlarged image, encoded with the model's VAE."),
                io.Noise.Input("noise", tooltip="From QUSR Adaptive Noise; DisableNoise works too."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="How much of the predicted detail is added. 1 as trained, less is safer, 0 adds none.",
                ),
                io.Int.Input(
                    "tile",
                    default=96,
                    min=SMALLEST_TILE,
                    max=MOST_TILE,
                    step=8,
                    tooltip="Side of a tile in latent pixels (nano: 4 image pixels, SD: 8). Not for automatic.",
                ),
                io.Int.Input(
                    "overlap",
                    default=32,
                    min=0,
                    max=1024,
                    step=8,
                    tooltip="Overlap of neighbouring tiles in latent pixels, at most half a tile. nano needs none.",
                ),
                io.Combo.Input(
                    "blend",
                    options=[AUTOMATIC, *BLENDS],
                    default=AUTOMATIC,
                    optional=True,
                    tooltip="How tiles meet. automatic: whole, smooth tiles when memory is short. smooth: a slow "
                    "cross-fade without ridges. gaussian: as the authors' code.",
                ),
            ],
            outputs=[io.Latent.Output(display_name="restored")],
        )

    @classmethod
    def validate_inputs(cls, tile: int = WHOLE) -> bool | str:
        """Takes the place of ComfyUI's own check, which would refuse the 0 ("whole") of workflows from version 0.1."""
        if 0 <= tile <= MOST_TILE:
            return True
        return f"tile: expected {SMALLEST_TILE} to {MOST_TILE} latent pixels, but got {tile}"

    @classmethod
    def execute(
        cls,
        model: MODEL,
        conditioning: CONDITIONING,
        latent: LATENT,
        noise: NOISE,
        strength: float,
        tile: int,
        overlap: int,
        blend: Blend | Literal["automatic"] = "gaussian",
    ) -> io.NodeOutput:
        if (told := cls.validate_inputs(tile)) is not True:  # of another node: ComfyUI has not looked at it
            raise ValueError(told)
        tiling = Tiling(0, overlap, "smooth") if blend == AUTOMATIC else Tiling(tile, overlap, blend)
        return io.NodeOutput(one_step(model, conditioning, latent, noise, tiling, strength))
