"""Adaptive noise as a native NOISE object."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..qusr_train.model.noise import VARIANTS, NoiseParameters, as_variant, noise_sigma
from .native.host import image_out
from .native.noise import AdaptiveNoise
from .native.schema import advanced, found_by
from .native.sockets import CATEGORY, Uncertainty, UncertaintySocket
from .vae import encode, tile_inputs

AS_TRAINED = -1.0


def adaptive_noise(
    vae: Any,
    uncertainty: Uncertainty,
    seed: int,
    parameters: NoiseParameters,
    tile: int = 0,
    mode: str = "exact",
    posterior_noise: Tensor | None = None,
) -> AdaptiveNoise:
    """Encode the map with the VAE (eq. 4) and keep sigma (eq. 6) for sampling.

    Args:
        vae, tile, mode, posterior_noise: see `vae.encode`.
        uncertainty: of the enlarged image.
        seed: of the noise.
        parameters: variant and strengths; with p = 0 nothing is encoded.
    """
    if parameters.p == 0:
        block = vae.spacial_compression_encode()
        height, width = (-(-side // block) for side in uncertainty.map.shape[-2:])
        return AdaptiveNoise(seed, torch.zeros(uncertainty.map.shape[0], vae.latent_channels, height, width), 0.0)
    # VAEs expect [0, 1]; the raw map is treated like an image in [-1, 1].
    as_image = ((uncertainty.map + 1) / 2).movedim(1, -1)
    u_encoded = encode(vae, as_image, tile, mode, posterior_noise).cpu() * uncertainty.latent_scale
    return AdaptiveNoise(seed, noise_sigma(u_encoded, parameters), parameters.p)


class QUSRAdaptiveNoise(io.ComfyNode):
    @classmethod
    @advanced("variant", "k", "m", "p", "delta", "tile", "tiles")
    def define_schema(cls) -> io.Schema:
        def parameter(name: str, high: float, step: float, text: str) -> io.Float.Input:
            return io.Float.Input(
                name,
                default=AS_TRAINED,
                min=AS_TRAINED,
                max=high,
                step=step,
                round=False,
                optional=True,
                tooltip=f"{text} -1: as the model was trained.",
            )

        return io.Schema(
            node_id="QUSRAdaptiveNoise",
            display_name="QUSR Adaptive Noise",
            category=CATEGORY,
            **found_by("random noise, inject noise, noise injection, detail"),
            description=(
                "Noise that is strong where the model is unsure and weak where it is sure (paper equations 4-7). "
                "A native NOISE: goes into QUSR One-Step Denoise or SamplerCustomAdvanced."
            ),
            inputs=[
                io.Vae.Input("vae", tooltip="The VAE that encodes the image, here used on the uncertainty map."),
                UncertaintySocket.Input("uncertainty", tooltip="From QUSR Uncertainty, on the enlarged image."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="The same seed gives the same noise for an image, whatever batch it is in.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=4.0,
                    step=0.05,
                    tooltip="Multiplies the injected noise. 1 as trained, 0 none.",
                ),
                io.Combo.Input(
                    "variant",
                    options=["auto", *VARIANTS],
                    default="auto",
                    tooltip="Formula for the noise scale. auto: as the model was trained.",
                ),
                parameter("k", 10.0, 0.001, "Gain of the map (eq. 4, paper variant)."),
                parameter("m", 1.0, 0.01, "Noise floor (eq. 5, paper variant)."),
                parameter("p", 4.0, 0.05, "Noise strength (eq. 7)."),
                parameter("delta", 1.0, 1e-8, "Added under the square root (eq. 6)."),
                *tile_inputs(optional=True),
            ],
            outputs=[
                io.Noise.Output(display_name="noise"),
                io.Image.Output(
                    display_name="noise_level", tooltip="Injected standard deviation, brightest where strongest."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        vae: Any,
        uncertainty: Uncertainty,
        seed: int,
        strength: float,
        variant: str,
        k: float = AS_TRAINED,
        m: float = AS_TRAINED,
        p: float = AS_TRAINED,
        delta: float = AS_TRAINED,
        tile: int = 0,
        tiles: str = "exact",
    ) -> io.NodeOutput:
        given = {"k": k, "m": m, "p": p, "delta": delta}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value >= 0}
        if variant != "auto":
            changes["variant"] = as_variant(variant)
        parameters = dataclasses.replace(uncertainty.noise, **changes)
        parameters = dataclasses.replace(parameters, p=parameters.p * strength)
        noise = adaptive_noise(vae, uncertainty, seed, parameters, tile, tiles)
        level = noise.sigma.mean(1, keepdim=True) * noise.p
        level = level / level.amax((1, 2, 3), keepdim=True).clamp(min=1e-8)
        return io.NodeOutput(noise, image_out(level.expand(-1, 3, -1, -1)))
