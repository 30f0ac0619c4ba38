"""One-step residual sampling as patches on a native MODEL, so that every ComfyUI sampler can run it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import comfy.patcher_extension
import torch
from torch import Tensor

from ...qusr_train.model.noise import Variant, kept_grain
from .comfy_types import MODEL, Executor, ModelOptions

_WRAPPER_KEY = "qusr_after_noise"


class OneStepSampling(torch.nn.Module):
    """A `model_sampling` whose only step turns z_g into z_g - eps (equation 2).

    One sigma, 1: every scheduler at one step then gives [1, 0], and `euler` returns the
    denoised latent itself.

    Args:
        timestep: what the UNet is told.
        signal, noise: the step is (z - noise * eps) / signal; both 1 for QUSR, for OSEDiff and CODSR the
            square roots of alpha_bar and 1 - alpha_bar.
        diffused: the latent is mixed with the noise as in diffusion, signal * z + noise * n (CODSR); else z + n.
    """

    sigmas: Tensor
    log_sigmas: Tensor

    def __init__(self, timestep: float = 1.0, signal: float = 1.0, noise: float = 1.0, diffused: bool = False) -> None:
        super().__init__()
        self.signal, self.noise, self.diffused = signal, noise, diffused
        self.sigma_data = 1.0
        self.model_timestep = timestep
        self.register_buffer("sigmas", torch.ones(1))
        self.register_buffer("log_sigmas", torch.zeros(1))

    @property
    def sigma_min(self) -> Tensor:
        return self.sigmas[0]

    @property
    def sigma_max(self) -> Tensor:
        return self.sigmas[-1]

    def timestep(self, sigma: Tensor) -> Tensor:
        return torch.full_like(sigma, self.model_timestep)

    def sigma(self, timestep: Tensor) -> Tensor:
        return torch.ones_like(timestep)

    def percent_to_sigma(self, percent: float) -> float:
        if percent <= 0.0:
            return 999999999.9
        return 0.0 if percent >= 1.0 else 1.0

    def calculate_input(self, sigma: Tensor, noise: Tensor) -> Tensor:
        return noise

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        return (model_input - self.noise * model_output) / self.signal

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent_image: Tensor, max_denoise: bool = False) -> Tensor:
        return self.signal * latent_image + self.noise * noise if self.diffused else latent_image + noise

    def inverse_noise_scaling(self, sigma: Tensor, latent: Tensor) -> Tensor:
        return latent


@dataclass(frozen=True)
class _AfterNoise:
    """Takes the injected noise out of the sampler's result, or leaves a share of it as grain.

    The sampler ends with z_g - eps. Paper variant: z_lq - eps = (z_g - eps) - injected noise. The x0 that a callback
    sees changes likewise. Outside a denoise mask the sampler returns the latent itself, without noise.
    """

    variant: Variant
    grain: float

    def __call__(
        self,
        executor: Executor,
        model_wrap: object,
        sigmas: Tensor,
        extra_args: ModelOptions,
        callback: Callable[[int, Tensor, Tensor, int], None] | None,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        injected = noise if denoise_mask is None else noise * denoise_mask
        change = -injected if self.variant == "paper" else torch.zeros_like(injected)
        if self.grain:
            change += kept_grain(injected, self.grain)

        seen = None
        if callback is not None:
            report = callback

            def seen(step: int, x0: Tensor, x: Tensor, total: int) -> None:
                report(step, x0 + change, x, total)

        restored = executor(model_wrap, sigmas, extra_args, seen, noise, latent_image, denoise_mask, disable_pbar)
        return restored + change


def make_one_step(
    patcher: MODEL,
    variant: Variant,
    timestep: float = 1.0,
    signal: float = 1.0,
    noise: float = 1.0,
    diffused: bool = False,
    grain: float = 0.0,
) -> MODEL:
    """Patch a cloned ModelPatcher in place for one-step residual sampling and return it.

    Args:
        patcher: a clone, it is modified.
        variant: which residual formula (see `qusr_train.noise`).
        timestep: what the UNet is told, 1 for QUSR.
        signal, noise, diffused: see `OneStepSampling`.
        grain: share of the injected noise that stays (see `qusr_train.noise`).
    """
    patcher.add_object_patch("model_sampling", OneStepSampling(timestep, signal, noise, diffused))
    if variant == "paper" or grain:
        patcher.add_wrapper_with_key(
            comfy.patcher_extension.WrappersMP.SAMPLER_SAMPLE, _WRAPPER_KEY, _AfterNoise(variant, grain)
        )
    return patcher


def is_one_step(patcher: MODEL) -> bool:
    """Whether a MODEL came from a QUSR loader."""
    return isinstance(patcher.object_patches.get("model_sampling"), OneStepSampling)
