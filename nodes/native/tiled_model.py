"""A MODEL that predicts tile by tile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.patcher_extension
from torch import Tensor

from ...qusr_train.images.tiling import Blend, Tile, blend_tiles, exact_tiles
from .comfy_types import MODEL, Executor, ModelOptions


@dataclass(frozen=True)
class Tiling:
    """How the denoiser takes a latent apart."""

    tile: int = 0
    """Side in latent pixels; 0 takes the latent whole."""
    overlap: int = 0
    """Latent pixels, at most half a tile. A model of bounded reach (nano) has its own margin instead."""
    blend: Blend = "gaussian"
    """See `blend_tiles`."""


def reach(model: MODEL) -> int:
    """Latent pixels that a pixel of the result depends on to each side; 0 if it depends on the whole latent."""
    return getattr(model.model.diffusion_model, "receptive_radius", 0)


def tiled_model(model: MODEL, tiling: Tiling, each: Callable[[], None]) -> MODEL:
    """A clone of a MODEL that predicts tile by tile.

    A model of bounded reach gets tiles with so much margin that the result is that of the whole latent. The others
    (their norms and their attention see the whole) get overlapping tiles that are blended.

    Args:
        model: any MODEL.
        tiling: its tile and overlap are above 0.
        each: called after every tile.
    """
    tile, margin = tiling.tile, reach(model)

    def wrapper(apply_model: Executor, arguments: ModelOptions) -> Tensor:
        conditions, timestep = arguments["c"], arguments["timestep"]
        whole = arguments["input"]

        def one(window: Tensor, place: Tile) -> Tensor:
            cut = {name: place.of(value) if _is_plane(value, whole) else value for name, value in conditions.items()}
            predicted = apply_model(window, timestep, **cut)
            each()
            return predicted

        if margin:
            return exact_tiles(whole, one, tile, margin)
        return blend_tiles(whole, one, tile, tiling.overlap, blend=tiling.blend)

    def prepare(executor: Executor, patcher: MODEL, noise_shape: list[int], *rest: object, **keywords: object) -> Any:
        # ComfyUI makes room for this shape: a tile, or it would move weights off the device for nothing.
        shape = [*noise_shape[:-2], *(min(side, tile + 2 * margin) for side in noise_shape[-2:])]
        return executor(patcher, shape, *rest, **keywords)

    clone = model.clone()
    clone.set_model_unet_function_wrapper(wrapper)
    clone.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.PREPARE_SAMPLING, "qusr_tile", prepare)
    return clone


def _is_plane(value: object, latent: Tensor) -> bool:
    """Whether a condition has a value for each place of the latent, like CODSR's scale and shift."""
    return isinstance(value, Tensor) and value.ndim == 4 and value.shape[-2:] == latent.shape[-2:]
