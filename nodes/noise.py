"""Adaptive noise as a native NOISE object."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..qusr_train.model.noise import SEED_RULES, VARIANTS, NoiseParameters, SeedRule, as_variant, noise_sigma
from ..qusr_train.model.sobel import sobel_sigma
from .native.comfy_types import VAE
from .native.host import image_out
from .native.noise import AdaptiveNoise
from .native.oom import WHOLE
from .native.schema import advanced, found_by
from .native.sockets import CATEGORY, Uncertainty, UncertaintySocket
from .native.vae import check_tile, encode
from .vae import allowed_tile, chosen_tiles, tile_inputs

AS_TRAINED, CUSTOM = "as trained", "custom"
_UNSET = -1.0  # what workflows of version 0.1 hold in k, m, p and delta for "as trained"


def adaptive_noise(
    vae: VAE,
    uncertainty: Uncertainty,
    seed: int,
    parameters: NoiseParameters,
    tile: int = 0,
    mode: str = "exact",
    posterior_noise: Tensor | None = None,
    seeds: SeedRule = "fixed",
) -> AdaptiveNoise:
    """Encode the map with the VAE (eq. 4) and keep sigma (eq. 6) for sampling.

    Args:
        vae, tile, mode, posterior_noise: see `vae.encode`.
        uncertainty: of the enlarged image.
        seed: of the noise.
        parameters: variant and strengths; with p = 0 nothing is encoded.
        seeds: how the images of a batch get their seeds, see `image_seed`.
    """
    if parameters.p == 0:
        block = vae.spacial_compression_encode()
        height, width = (-(-side // block) for side in uncertainty.map.shape[-2:])
        return AdaptiveNoise(
            seed, torch.zeros(uncertainty.map.shape[0], vae.latent_channels, height, width), 0.0, seeds
        )
    if parameters.variant == "sobel":
        if uncertainty.estimator != "sobel":
            raise ValueError(
                "uncertainty: variant sobel takes the map of the estimator sobel, but this one is of "
                f"{uncertainty.estimator}; set estimator to sobel in QUSR Uncertainty, or variant to auto"
            )
        weight = sobel_sigma(uncertainty.map, vae.spacial_compression_encode())
        return AdaptiveNoise(
            seed, noise_sigma(weight.expand(-1, vae.latent_channels, -1, -1), parameters), parameters.p
        )
    # VAEs expect [0, 1]; the raw map is treated like an image in [-1, 1].
    as_image = ((uncertainty.map + 1) / 2).movedim(1, -1)
    u_encoded = encode(vae, as_image, tile, mode, posterior_noise).cpu() * uncertainty.latent_scale
    return AdaptiveNoise(seed, noise_sigma(u_encoded, parameters), parameters.p, seeds)


def seeds_input() -> io.Input:
    """The input about the seeds of a batch, the same wherever there is a seed for noise."""
    return io.Combo.Input(
        "seeds",
        options=list(SEED_RULES),
        default="fixed",
        optional=True,
        tooltip="Of a batch. fixed: every image the seed above, as a video needs. per image: image i the seed + i.",
    )


class QUSRAdaptiveNoise(io.ComfyNode):
    @classmethod
    @advanced("variant", "parameters", "tile", "tiles")
    def define_schema(cls) -> io.Schema:
        def parameter(name: str, default: float, high: float, step: float, text: str) -> io.Float.Input:
            return io.Float.Input(
                name,
                default=default,
                min=0.0,
                max=high,
                step=step,
                round=False,
                optional=True,
                tooltip=f"{text} For parameters: custom.",
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
                    tooltip="Formula for the noise scale. auto: as trained. sobel: needs the estimator sobel.",
                ),
                parameter("k", 1.0, 10.0, 0.001, "Gain of the map (eq. 4, paper variant)."),
                parameter("m", 0.0, 1.0, 0.01, "Noise floor (eq. 5, paper variant)."),
                parameter("p", 0.5, 4.0, 0.05, "Noise strength (eq. 7)."),
                parameter("delta", 1e-8, 1.0, 1e-8, "Added under the square root (eq. 6)."),
                *tile_inputs(optional=True),
                seeds_input(),
                io.Combo.Input(
                    "parameters",
                    options=[AS_TRAINED, CUSTOM],
                    default=AS_TRAINED,
                    optional=True,
                    tooltip="as trained: the model's own k, m, p and delta. custom: those of this node.",
                ),
            ],
            outputs=[
                io.Noise.Output(display_name="noise"),
                io.Image.Output(
                    display_name="noise_level", tooltip="Injected standard deviation, brightest where strongest."
                ),
            ],
        )

    @classmethod
    def validate_inputs(
        cls, k: float = 0, m: float = 0, p: float = 0, delta: float = 0, tile: int = WHOLE
    ) -> bool | str:
        """Takes the place of ComfyUI's own check, which would refuse the -1 of workflows from version 0.1."""
        highest = {"k": (k, 10.0), "m": (m, 1.0), "p": (p, 4.0), "delta": (delta, 1.0)}
        wrong = [name for name, (value, high) in highest.items() if value > high or (value < 0 and value != _UNSET)]
        if not wrong:
            return allowed_tile(tile)
        value, high = highest[wrong[0]]
        return f"{wrong[0]}: expected 0 to {high:g}, but got {value:g}"

    @classmethod
    def execute(
        cls,
        vae: VAE,
        uncertainty: Uncertainty,
        seed: int,
        strength: float,
        variant: str,
        k: float = _UNSET,
        m: float = _UNSET,
        p: float = _UNSET,
        delta: float = _UNSET,
        tile: int = 0,
        tiles: str = "exact",
        seeds: SeedRule = "fixed",
        parameters: str = CUSTOM,
    ) -> io.NodeOutput:
        check_tile(tile)
        given = {"k": k, "m": m, "p": p, "delta": delta} if parameters == CUSTOM else {}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value >= 0}
        if variant != "auto":
            changes["variant"] = as_variant(variant)
        chosen = dataclasses.replace(uncertainty.noise, **changes)
        chosen = dataclasses.replace(chosen, p=chosen.p * strength)
        noise = adaptive_noise(vae, uncertainty, seed, chosen, *chosen_tiles(tile, tiles), seeds=seeds)
        level = noise.sigma.mean(1, keepdim=True) * noise.p
        level = level / level.amax((1, 2, 3), keepdim=True).clamp(min=1e-8)
        return io.NodeOutput(noise, image_out(level.expand(-1, 3, -1, -1)))
