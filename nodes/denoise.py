"""The one step: z_hq from the guided latent."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.samplers
import comfy.utils
import torch
from comfy_api.latest import io
from torch import Tensor

from ..qusr_train.tiling import Tile, blend_tiles, count_tiles
from .host import checkpoint_interrupt, progress
from .sampling import is_one_step
from .sockets import CATEGORY


def tiled_model(model: Any, size: tuple[int, int], tile: int, overlap: int) -> Any:
    """A clone of a MODEL that predicts tile by tile, with progress and interrupt after each."""
    bar = progress(count_tiles(*size, tile, overlap))

    def each() -> None:
        bar.update(1)
        checkpoint_interrupt()

    def wrapper(apply_model: Any, arguments: dict[str, Any]) -> Tensor:
        conditions, timestep = arguments["c"], arguments["timestep"]

        def one(window: Tensor, _: Tile) -> Tensor:
            return apply_model(window, timestep, **conditions)

        return blend_tiles(arguments["input"], one, tile, overlap, each)

    clone = model.clone()
    clone.set_model_unet_function_wrapper(wrapper)
    return clone


def one_step(
    model: Any,
    conditioning: Any,
    latent: dict[str, Any],
    noise: Any,
    tile: int = 0,
    overlap: int = 0,
    strength: float = 1.0,
) -> dict[str, Any]:
    """Run the denoiser's single step through ComfyUI's own sampler.

    Args:
        model: MODEL from a QUSR loader.
        conditioning: one prompt, or one for each latent of the batch.
        latent: LATENT, unscaled.
        noise: NOISE.
        tile, overlap: in latent pixels; tile 0 takes the image whole, overlap is at most half a tile.
        strength: 1 the full residual, 0 none.

    Returns:
        A LATENT with everything else of the input kept.
    """
    if not is_one_step(model):
        raise ValueError(
            "model: is not a one-step QUSR model, so one step would return a broken image; "
            "connect the model output of QUSR Nano Loader"
        )
    samples = latent["samples"]
    wanted = model.model.latent_format.latent_channels
    if samples.ndim != 4 or samples.shape[1] != wanted:
        raise ValueError(
            f"latent: expected (batch, {wanted}, height, width) for this model, but got {tuple(samples.shape)}; "
            "encode the image with the VAE that belongs to the model"
        )
    prompts = conditioning[0][0].shape[0]
    if prompts not in (1, samples.shape[0]):
        raise ValueError(
            f"conditioning: holds {prompts} prompts for {samples.shape[0]} latents; "
            "use one prompt, or one for each image"
        )
    if tile > 0 and max(samples.shape[-2:]) > tile:
        model = tiled_model(model, (samples.shape[-2], samples.shape[-1]), tile, min(overlap, tile // 2))
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({"positive": conditioning})
    restored = guider.sample(
        noise.generate_noise(latent),
        samples,
        comfy.samplers.ksampler("euler"),
        torch.tensor([1.0, 0.0]),
        denoise_mask=latent.get("noise_mask"),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=noise.seed,
    ).to(comfy.model_management.intermediate_device())
    if not torch.isfinite(restored).all():
        raise RuntimeError(
            "model: the result has NaN or infinite values; the model overflows in half precision on this device. "
            "Start ComfyUI with --force-fp32 or --fp32-unet"
        )
    if strength != 1.0:
        restored = torch.lerp(samples.to(restored), restored, strength)
    return {**latent, "samples": restored}


class QUSROneStepDenoise(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="QUSROneStepDenoise",
            display_name="QUSR One-Step Denoise",
            category=CATEGORY,
            description="Adds the noise, predicts the residual once and subtracts it (paper equations 1-2 and 7).",
            inputs=[
                io.Model.Input("model", tooltip="From a QUSR loader."),
                io.Conditioning.Input(
                    "conditioning", tooltip="The encoded quality prompt: one, or one for each image."
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
                    default=0,
                    min=0,
                    max=4096,
                    step=8,
                    tooltip="Side of a tile in latent pixels (nano: 4 image pixels each), 0: whole image. Less memory.",
                ),
                io.Int.Input(
                    "overlap",
                    default=32,
                    min=0,
                    max=1024,
                    step=8,
                    tooltip="Overlap of neighbouring tiles in latent pixels, at most half a tile.",
                ),
            ],
            outputs=[io.Latent.Output(display_name="restored")],
        )

    @classmethod
    def execute(
        cls, model: Any, conditioning: Any, latent: Any, noise: Any, strength: float, tile: int, overlap: int
    ) -> io.NodeOutput:
        return io.NodeOutput(one_step(model, conditioning, latent, noise, tile, overlap, strength))
