"""Adaptive noise injection and the one-step residual (QUSR, arXiv 2603.09125, equations 1-7).

Two variants of QUSR exist and both ship. They differ in the noise floor and in what the predicted
residual is subtracted from:

| step                   | paper                               | reference code                     |
|------------------------|-------------------------------------|------------------------------------|
| latent map (eq. 4)     | U_l = k E(U)                        | the same with k = 1                |
| noise floor (eq. 5)    | U_f = m + (1 - m) U_l               | computed but not used: U_f = U_l   |
| scale (eq. 6)          | sigma = sqrt(|U_f| + delta)         | the same, delta = 1e-8             |
| guided latent (eq. 7)  | z_g = z_lq + eps sigma p            | the same, p = 0.5                  |
| result (eq. 1, 2)      | z_hq = z_lq - eps_theta(z_g, t, C)  | z_hq = z_g - eps_theta(z_g, t, C)  |

A third, `sobel`, is CODSR's (arXiv 2512.14061): the map is its Sobel weight, not encoded, and sigma is that weight.

Not in the paper: a model whose latents are pixels may leave a share of the injected noise in the result, as grain
(`kept_grain`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from ..images.color import low_pass

Variant = Literal["paper", "reference", "sobel"]
_BLURS = 2  # of (1, 2, 1) / 4: together (1, 4, 6, 4, 1) / 16, a standard deviation of one pixel
_KEPT = 70 / 256 / math.sqrt(3)
"""Standard deviation of white noise of three colours after their mean and the blurs, over that before."""

MOST = 1e4
"""Largest value of a noise parameter; more only overflows."""
VARIANTS: tuple[Variant, ...] = get_args(Variant)

SeedRule = Literal["fixed", "per image"]
SEED_RULES: tuple[SeedRule, ...] = get_args(SeedRule)

Spread = Literal["adaptive", "uniform", "none"]
"""How the noise is spread: as the map says, evenly with the same power, or no noise at all."""
SPREADS: tuple[Spread, ...] = get_args(Spread)


@dataclass(frozen=True)
class NoiseParameters:
    """What turns an uncertainty map into injected noise; stored in a checkpoint's metadata."""

    variant: Variant = "reference"
    """`paper`, `reference` or `sobel`: see the top of this file."""
    k: float = 1.0
    """Gain of the latent map (eq. 4), at least 0. The reference fixes it to 1."""
    m: float = 0.0
    """Noise floor (eq. 5) in [0, 1]. The reference does not use it."""
    p: float = 0.5
    """Strength of the injected noise (eq. 7), at least 0; 0 injects none."""
    delta: float = 1e-8
    """Keeps the square root (eq. 6) away from 0, at least 0."""
    grain: float = 0.0
    """Share of the injected noise that stays in the result (`kept_grain`, not in the paper), at least 0."""

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, but got {self.variant!r}")
        for name, low, high in (
            ("k", 0.0, MOST),
            ("m", 0.0, 1.0),
            ("p", 0.0, MOST),
            ("delta", 0.0, MOST),
            ("grain", 0.0, MOST),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ValueError(f"noise parameter {name} must be a number, but got {value!r:.50}")
            if not low <= value <= high:  # also NaN
                raise ValueError(f"noise parameter {name} must be in [{low:g}, {high:g}], but got {value!r:.50}")


def as_variant(name: str) -> Variant:
    """Check a variant's name. Raises ValueError for an unknown one."""
    if name not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, but got {name!r}")
    return name


def noise_sigma(u_encoded: Tensor, parameters: NoiseParameters) -> Tensor:
    """Equations 4-6: standard deviation of the injected noise, before the strength p.

    Computed in float32, since delta = 1e-8 underflows to 0 in half precision.

    Args:
        u_encoded: (B, C, h, w), E(U) in the latent space the denoiser works in (for Stable
            Diffusion: the VAE latent of the map times 0.18215). Variant `sobel`: `sobel_sigma` instead.
        parameters: variant, k, m, delta.

    Returns:
        sigma: (B, C, h, w), float32, at least sqrt(delta).
    """
    u_latent = u_encoded.float()
    if parameters.variant == "sobel":
        return u_latent.abs()
    if parameters.variant == "paper":
        u_latent = (parameters.k * u_latent).mul_(1.0 - parameters.m).add_(parameters.m)
    return u_latent.abs().add_(parameters.delta).sqrt_()


def even_sigma(u_encoded: Tensor, parameters: NoiseParameters) -> Tensor:
    """One sigma for all latent pixels and channels with the power of the map's, to see what the map is worth.

    Args:
        u_encoded, parameters: as for `noise_sigma`, of the whole picture.

    Returns:
        (B, 1, 1, 1): root mean square of sigma for each image.
    """
    return noise_sigma(u_encoded, parameters).square().mean((1, 2, 3), keepdim=True).sqrt()


def injected_noise(noise: Tensor, sigma: Tensor, p: float) -> Tensor:
    """The second term of equation 7, eps * sigma * p, so that z_g = z_lq + injected noise.

    Args:
        noise: (B, C, h, w), standard normal.
        sigma: (B, C, h, w) from `noise_sigma`.
        p: strength.
    """
    if noise.shape != sigma.shape:
        raise ValueError(
            f"noise and sigma must have the same shape, but got {tuple(noise.shape)} and {tuple(sigma.shape)}"
        )
    return (noise * sigma).mul_(p)


def residual_step(z_g: Tensor, eps: Tensor, injected: Tensor, variant: Variant) -> Tensor:
    """Equations 1 and 2: the restored latent from the predicted residual.

    Args:
        z_g: (B, C, h, w), guided latent z_lq + injected.
        eps: (B, C, h, w), output of the denoiser for z_g.
        injected: (B, C, h, w), the injected noise.
        variant: `paper` subtracts from z_lq (= z_g - injected), the others from z_g.
    """
    as_variant(variant)
    restored = z_g - eps
    return restored.sub_(injected) if variant == "paper" else restored


def kept_grain(injected: Tensor, grain: float) -> Tensor:
    """What stays of the injected noise: grey, soft grain, strong where the map is unsure as the noise itself.

    White noise is finer than anything in a photo and colours it; the mean of the three colours, blurred over about a
    pixel, looks like texture that is too small to be made out. Its power is `grain` squared of the noise's.

    Args:
        injected: (B, 3 s^2, h, w), latents that are blocks of s x s pixels (`nano.PixelUnshuffleVAE`).
        grain: `NoiseParameters.grain`.

    Returns:
        (B, 3 s^2, h, w), to be added to the restored latent.

    Raises:
        ValueError: latents that are no pixels.
    """
    channels = injected.shape[1]
    block = math.isqrt(channels // 3)
    if channels != 3 * block**2:
        raise ValueError(f"grain: needs latents of 3 x s x s channels, blocks of pixels, but got {channels} channels")
    grey = F.pixel_shuffle(injected.unflatten(1, (3, block**2)).mean(1), block)
    for _ in range(_BLURS):
        grey = low_pass(grey, 1)
    return F.pixel_unshuffle(grey.mul_(grain / _KEPT), block).repeat(1, 3, 1, 1)


def guided_step(
    z_lq: Tensor,
    u_encoded: Tensor | None,
    noise: Tensor | None,
    parameters: NoiseParameters,
    denoise: Callable[[Tensor], Tensor],
    even: Tensor | None = None,
) -> Tensor:
    """QUSR's one step, equations 1, 2 and 4 to 7: noise where the map says unsure, then the residual taken away.

    Args:
        z_lq: (B, C, h, w), latent of the enlarged input.
        u_encoded: (B, C, h, w), the map's latent, see `noise_sigma`; None takes the step without noise.
        noise: (B, C, h, w), standard normal; not read without a map.
        parameters: variant, k, m, p, delta.
        denoise: eps_theta, from the guided latent z_g to the residual, both (B, C, h, w).
        even: (B, 1, 1, 1) from `even_sigma`, to spread the noise evenly instead of as the map says.

    Returns:
        z_hq: (B, C, h, w).
    """
    if u_encoded is None:
        return z_lq - denoise(z_lq).float()
    if noise is None:
        raise ValueError("noise: expected standard normal noise beside the uncertainty map, but got None")
    sigma = noise_sigma(u_encoded, parameters)
    if even is not None:
        sigma = even.expand_as(sigma)
    injected = injected_noise(noise, sigma, parameters.p)
    z_g = z_lq + injected
    restored = residual_step(z_g, denoise(z_g).float(), injected, parameters.variant)
    return restored.add_(kept_grain(injected, parameters.grain)) if parameters.grain else restored


def image_seed(seed: int, index: int, rule: str = "fixed") -> int:
    """The seed of one image of a batch: its noise is that of the image restored alone with this seed.

    Args:
        seed: of the batch, 0 to 2^64 - 1.
        index: the image's place in the batch, from 0.
        rule: `fixed` gives every image the batch's seed (frames of a video: the noise does not flicker); `per image`
            gives image i the seed + i, starting again from 0 behind 2^64 - 1.

    Raises:
        ValueError: another rule.
    """
    if rule not in SEED_RULES:
        raise ValueError(f"seeds must be one of {', '.join(SEED_RULES)}, but got {rule!r}")
    return seed if rule == "fixed" else (seed + index) % 2**64


def seeded_noise(shape: tuple[int, ...], seed: int) -> Tensor:
    """Standard normal noise (B, C, h, w), float32 on the CPU, equal for every image of the batch.

    Each image starts from the same seed (`image_seed`'s rule `fixed`), so the result for an image does not depend on
    the batch it is in, and the frames of a video get noise that does not flicker.
    """
    generator = torch.Generator(device="cpu").manual_seed(seed)
    one = torch.randn((1, *shape[1:]), generator=generator)
    return one if shape[0] == 1 else one.expand(shape[0], *shape[1:]).clone()
