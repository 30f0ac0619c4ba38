"""Estimating the uncertainty and looking at it."""

from __future__ import annotations

from collections.abc import Callable

import comfy.model_management
import torch
from comfy_api.latest import io
from torch import Tensor

from ..qusr_train.images.heatmap import COLORMAPS, add_legend, colorize, value_range
from ..qusr_train.images.tiling import iterate_images
from ..qusr_train.model.map_calibration import DEFAULT_ERROR
from ..qusr_train.model.sobel import sobel_uncertainty
from ..qusr_train.model.uncertainty import (
    deviation_uncertainty,
    estimate_uncertainty,
    gradient_uncertainty,
    residual_uncertainty,
)
from .denoise import one_step
from .native.comfy_types import NOISE
from .native.host import check_image, checkpoint_interrupt, image_out, match_batch, progress
from .native.nano import load_nano_models
from .native.noise import AdaptiveNoise
from .native.schema import advanced, found_by
from .native.sockets import CATEGORY, LoadedUEM, UEMSocket, Uncertainty, UncertaintySocket
from .native.vae import decode_latent, encode_latent
from .native.view_files import uncertainty_files
from .prompt import encode_tiles
from .tiles import whole_photo

MODEL_FREE: dict[str, Callable[[Tensor], Tensor]] = {
    "gradient": gradient_uncertainty,
    "deviation": deviation_uncertainty,
    "sobel": sobel_uncertainty,
}
"""Estimators that look at the picture alone: (B, 3, H, W) in [-1, 1] to a map of that shape."""
ESTIMATORS = ("auto", "model", *MODEL_FREE, "residual")


def _fast_restoration(x_lq: Tensor) -> Tensor:
    """(1, 3, H, W) in [-1, 1] restored by the bundled qusr-nano's faithful base, without noise; likewise."""
    models = load_nano_models(lora_strength=0.0)
    latent = encode_latent(models.vae, image_out((x_lq + 1) / 2))
    conditioning = encode_tiles(models.clip, [""], whole_photo(x_lq)).conditioning
    silent = AdaptiveNoise(0, torch.zeros_like(latent["samples"]), 0.0)
    restored = one_step(models.model, conditioning, latent, silent)
    return check_image(decode_latent(models.vae, restored), "decoded image").rgb * 2 - 1


def estimate(rgb: Tensor, uem: LoadedUEM | None, estimator: str = "auto") -> Uncertainty:
    """Uncertainty of an enlarged image batch.

    Args:
        rgb: (B, 3, H, W) in [0, 1], at the output's size.
        uem: the loaded module, if there is one.
        estimator: `model`, one of `MODEL_FREE`, `residual` (what the bundled qusr-nano changes), or `auto`: the model
            if there is one, else what the file's noise was trained with (CODSR: `sobel`), else `gradient`.

    Raises:
        ValueError: `model` without a module.
    """
    patcher = None if uem is None else uem.patcher
    if estimator == "model" and patcher is None:
        found = "not connected" if uem is None else "the loaded file has no UEM (only QUSR files have one)"
        raise ValueError(f"uem: {found}; connect the uem output of a QUSR model's loader, or set estimator to gradient")
    if estimator == "auto":
        own = uem is not None and uem.noise.variant == "sobel"
        estimator = "model" if patcher is not None else "sobel" if own else "gradient"
    maps = []
    bar = progress(rgb.shape[0])
    if patcher is not None and estimator == "model":
        comfy.model_management.load_model_gpu(patcher)
    for image in iterate_images(rgb * 2 - 1):
        checkpoint_interrupt()
        if patcher is not None and estimator == "model":
            maps.append(estimate_uncertainty(patcher.model, image.to(patcher.load_device)).float().cpu())
        elif estimator == "residual":
            maps.append(residual_uncertainty(image.cpu(), _fast_restoration(image.cpu()).cpu()))
        else:
            maps.append(MODEL_FREE[estimator](image.cpu()))
        bar.update(1)
    u = torch.cat(maps)
    if not torch.isfinite(u).all():
        raise RuntimeError("uem: the uncertainty map has NaN or infinite values; load the model file again")
    if uem is None:
        return Uncertainty(u, estimator=estimator)
    return Uncertainty(u, uem.noise, uem.latent_scale, estimator, uem.meaning if estimator == "model" else None)


def as_mask(uncertainty: Uncertainty, max_error: float) -> Tensor:
    """The trust mask of a calibrated map: 1 where the error is promised to be at most `max_error` grey levels.

    Without a calibration it is the map itself, scaled so that its maximum is 1.

    Returns:
        (B, H, W) in [0, 1].

    Raises:
        ValueError: the model promises nothing as small as `max_error`.
    """
    values, meaning = uncertainty.values, uncertainty.meaning
    if meaning is None or not meaning.trust:
        return values / values.amax((1, 2), keepdim=True).clamp(min=1e-8)
    level = meaning.trust_for(max_error)
    if level is None:
        raise ValueError(
            f"max_error: expected at least {meaning.trust[0].error:g} grey levels, the smallest error that this model "
            f"was calibrated for, but got {max_error:g}"
        )
    return (values < level.threshold).float()


class QUSRUncertainty(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="QUSRUncertainty",
            display_name="QUSR Uncertainty",
            category=CATEGORY,
            **found_by("confidence, error map, detail mask, trust mask, super resolution"),
            description="Where will the model have to guess? Low on flat areas, high on texture, edges and text.",
            inputs=[
                io.Image.Input(
                    "image", tooltip="The enlarged image (QUSR Enlarge), the same that goes into VAE Encode."
                ),
                UEMSocket.Input(
                    "uem", optional=True, tooltip="From a QUSR loader. Without one the estimator is gradient."
                ),
                io.Combo.Input(
                    "estimator",
                    options=list(ESTIMATORS),
                    default="auto",
                    optional=True,
                    tooltip="auto: the trained UEM if connected. model: only that. gradient: local contrast. "
                    "deviation: local contrast by spread. sobel: edges as in CODSR. residual: what qusr-nano changes.",
                ),
                io.Float.Input(
                    "max_error",
                    default=DEFAULT_ERROR,
                    min=1.0,
                    max=64.0,
                    step=1.0,
                    optional=True,
                    tooltip="Of the mask of a calibrated model: grey levels (of 255) that the error of a trusted pixel "
                    "may have. Other models do not read it.",
                ),
            ],
            outputs=[
                UncertaintySocket.Output(display_name="uncertainty"),
                io.Mask.Output(
                    display_name="mask",
                    tooltip="Calibrated model: 1 where to trust the pixel, its error is below max_error with 90 % "
                    "confidence. Other models and estimators: the map, 0 to 1 (its maximum).",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, image: Tensor, uem: LoadedUEM | None = None, estimator: str = "auto", max_error: float = DEFAULT_ERROR
    ) -> io.NodeOutput:
        uncertainty = estimate(check_image(image).rgb, uem, estimator)
        return io.NodeOutput(uncertainty, as_mask(uncertainty, max_error))


class QUSRUncertaintyView(io.ComfyNode):
    @classmethod
    @advanced("range_min", "range_max")
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="QUSRUncertaintyView",
            display_name="QUSR Uncertainty View",
            category=CATEGORY,
            **found_by("heatmap, overlay, confidence, error map"),
            description="Look into the uncertainty map: over the photo, with its true values under the pointer.",
            inputs=[
                UncertaintySocket.Input("uncertainty", tooltip="From QUSR Uncertainty or QUSR Upscale."),
                io.Image.Input("image", optional=True, tooltip="Photo below the overlay, same size as the map."),
                io.Combo.Input("colormap", options=list(COLORMAPS), default="turbo", tooltip="Colours of the heatmap."),
                io.Float.Input(
                    "opacity", default=0.55, min=0.0, max=1.0, step=0.05, tooltip="Of the heatmap over the photo."
                ),
                io.Combo.Input(
                    "range",
                    options=["auto", "percentile", "fixed"],
                    default="auto",
                    tooltip="Ends of the colour scale. auto: 0 to maximum. percentile: 1 to 99 %. fixed: as below.",
                ),
                io.Float.Input(
                    "range_min",
                    default=0.0,
                    min=0.0,
                    max=1000.0,
                    step=0.01,
                    tooltip="Lower end of a fixed range.",
                ),
                io.Float.Input(
                    "range_max",
                    default=1.0,
                    min=0.0,
                    max=1000.0,
                    step=0.01,
                    tooltip="Upper end of a fixed range; in grey levels for a map that has a unit.",
                ),
                io.Boolean.Input("legend", default=True, tooltip="Adds a strip with the values below the pictures."),
                io.Noise.Input(
                    "noise",
                    optional=True,
                    tooltip="From QUSR Adaptive Noise: the viewer then reads the noise that is really injected.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="heatmap"),
                io.Image.Output(display_name="overlay", tooltip="The heatmap over the photo; the heatmap without one."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        uncertainty: Uncertainty,
        colormap: str,
        opacity: float,
        range: str,
        range_min: float,
        range_max: float,
        legend: bool,
        image: Tensor | None = None,
        noise: NOISE | None = None,
    ) -> io.NodeOutput:
        if noise is not None and not isinstance(noise, AdaptiveNoise):
            raise ValueError("noise: does not follow the uncertainty; connect the noise of QUSR Adaptive Noise")
        values = uncertainty.values
        low, high = value_range(values, range, range_min, range_max)
        heat = colorize((values - low) / (high - low), colormap)
        overlay, photo = heat, None
        if image is not None:
            photo = check_image(image).rgb
            if photo.shape[-2:] != heat.shape[-2:]:
                raise ValueError(
                    f"image: is {photo.shape[-1]} x {photo.shape[-2]} but the uncertainty map is {heat.shape[-1]} x "
                    f"{heat.shape[-2]}; connect the image the uncertainty was computed on (QUSR Enlarge)"
                )
            photo = match_batch(photo, heat.shape[0], "image", "uncertainty").to(heat)
            overlay = torch.lerp(photo, heat, opacity)
        if legend:
            title = f"expected error, {uncertainty.unit}" if uncertainty.unit else "uncertainty |U|"
            heat, overlay = (add_legend(x, colormap, low, high, title) for x in (heat, overlay))
        files = uncertainty_files(uncertainty, photo, noise)
        return io.NodeOutput(image_out(heat), image_out(overlay), ui={"qusr_uncertainty": [files]})
