"""The `measured` captioner: the quality prompt from numbers measured on the image itself.

The paper asks Qwen2.5-VL to "describe this low-resolution image, evaluating its quality based on
clarity, color, noise, and lighting". This captioner answers the same request without a language
model: each quality is estimated by a published estimator and put into words.

| quality  | estimator                                                                            |
|----------|--------------------------------------------------------------------------------------|
| clarity  | perceptual blur for each direction (Crete et al. 2007)                               |
| noise    | Laplacian residual (Immerkaer 1996) on the flattest blocks, luma and chroma apart    |
| artifacts| blocking on the 8-pixel grid (after Wang, Sheikh, Bovik 2002), at the best of 8 phases |
| color    | colorfulness (Hasler, Suesstrunk 2003); cast = distance of the mean from grey        |
| lighting | mean and 5-95 % range of luma, share of clipped pixels                               |
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

INSTRUCTION = (
    "Please describe this low-resolution image, evaluating its quality based on clarity, color, noise, and lighting."
)
"""The paper's instruction to its captioner, word for word."""

BLUR_LEVELS = (0.2, 0.28, 0.38, 0.5)
CLARITY_WORDS = (
    "excellent clarity, very sharp",
    "good clarity, sharp",
    "fair clarity, slightly soft",
    "poor clarity, blurry",
    "very poor clarity, very blurry",
)
NOISE_LEVELS = (0.6, 1.5, 3.5, 8.0)
NOISE_WORDS = ("no visible noise", "slight noise", "noticeable noise", "strong noise", "severe noise")
BLOCKING_LEVELS = (0.08, 0.2, 0.45)
BLOCKING_WORDS = (
    "no compression artifacts",
    "slight compression artifacts",
    "visible compression artifacts",
    "heavy compression artifacts",
)
COLORFULNESS_LEVELS = (0.015, 0.1, 0.2, 0.35)
COLOR_WORDS = ("black and white", "muted", "natural", "vivid", "very saturated")
EXPOSURE_LEVELS = (0.15, 0.32, 0.65, 0.82)
EXPOSURE_WORDS = ("very dark", "dim", "balanced", "bright", "overexposed")
CONTRAST_LEVELS = (0.3, 0.55)
CONTRAST_WORDS = ("low contrast", "moderate contrast", "high contrast")
CAST_THRESHOLD = 0.06  # distance of the mean chroma from grey
DIRECTION_THRESHOLD = 0.08  # difference of the blur between the two axes
CLIPPED_THRESHOLD = 0.02  # share of pixels
CHROMA_NOISE_RATIO = 1.0  # chroma noise over luma noise: more is called colored


@dataclass(frozen=True)
class Quality:
    """What was measured on one image."""

    blur_x: float
    """Perceptual blur along x, 0 (sharp) to 1."""
    blur_y: float
    """Perceptual blur along y, 0 (sharp) to 1."""
    noise: float
    """Standard deviation of the luma noise in grey levels (0-255)."""
    chroma_noise: float
    """Standard deviation of the stronger chroma channel's noise in grey levels."""
    blocking: float
    """Relative excess of steps on an 8-pixel grid; 0 without compression."""
    colorfulness: float
    """Hasler-Suesstrunk metric on a 0-1 scale; 0.1 muted, 0.3 vivid."""
    cast_red: float
    """Mean of Cr, -0.5 to 0.5; above 0 is reddish."""
    cast_blue: float
    """Mean of Cb, -0.5 to 0.5; above 0 is bluish."""
    exposure: float
    """Mean luma, 0 to 1."""
    contrast: float
    """Luma between the 5th and 95th percentile, 0 to 1."""
    clipped: float
    """Share of pixels that are black or white to within one grey level."""

    @property
    def blur(self) -> float:
        return 0.5 * (self.blur_x + self.blur_y)


def _ycbcr(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, 3, H, W) in [0, 1] -> Y in [0, 1], Cb and Cr in [-0.5, 0.5], each (B, H, W), BT.601 full range."""
    r, g, b = image.unbind(1)
    y = 0.299 * r + 0.587 * g + 0.114 * b
    return y, 0.564 * (b - y), 0.713 * (r - y)


def _blur(y: Tensor, dim: int) -> Tensor:
    """Crete et al.: how little the neighbouring differences shrink when the image is blurred again."""
    if y.shape[dim] < 3:
        return torch.ones(y.shape[0])
    x = y if dim == -1 else y.transpose(-1, -2)
    padded = F.pad(x[:, None], (4, 4, 0, 0), mode="replicate")
    again = F.avg_pool2d(padded, (1, 9), stride=1)[:, 0]
    sharp = (x[..., 1:] - x[..., :-1]).abs()
    lost = (sharp - (again[..., 1:] - again[..., :-1]).abs()).clamp(min=0)
    total = sharp.sum((-1, -2))
    return torch.where(total > 1e-6, (total - lost.sum((-1, -2))) / total.clamp(min=1e-6), torch.ones_like(total))


def _noise_std(channel: Tensor, block: int = 8) -> Tensor:
    """Immerkaer's operator, averaged over the quietest tenth of the blocks; same unit as the input."""
    if min(channel.shape[-2:]) < 3:
        return torch.zeros(channel.shape[0])
    kernel = torch.tensor([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]])
    response = F.conv2d(channel[:, None], kernel[None, None]).abs()
    size = min(block, *response.shape[-2:])
    blocks = F.avg_pool2d(response, size).flatten(1)
    quiet = blocks.sort(dim=1).values[:, : max(1, blocks.shape[1] // 10)].mean(1)
    return quiet * math.sqrt(math.pi / 2) / 6.0


def _blocking(y: Tensor) -> Tensor:
    """Excess of second differences at the strongest of 8 phases over the median phase, both axes."""
    scores = []
    for x in (y, y.transpose(-1, -2)):
        if x.shape[-1] < 24:
            continue
        # A step between pixels i and i + 1 beyond the slope on both sides, robust to edges by the clamp.
        step = (x[..., 2:-1] - x[..., 1:-2] - 0.5 * (x[..., 3:] - x[..., 2:-1] + x[..., 1:-2] - x[..., :-3])).abs()
        step = step.clamp(max=0.1).mean(-2)  # (B, W - 3)
        step = step[:, : step.shape[-1] // 8 * 8]
        phases = step.unflatten(-1, (-1, 8)).mean(1).sort(dim=1).values  # (B, 8)
        middle = phases[:, 2:6].mean(1)
        scores.append((phases[:, 7] - phases[:, 6]) / (middle + 1e-3))
    return torch.stack(scores).mean(0) if scores else torch.zeros(y.shape[0])


def measure_quality(image: Tensor) -> list[Quality]:
    """Measure every image of a batch.

    Args:
        image: (B, 3, H, W) in [0, 1], before any enlargement (enlarging hides noise and blocking).

    Returns:
        One `Quality` for each image.

    Raises:
        ValueError: wrong shape.
    """
    if image.ndim != 4 or image.shape[1] != 3:
        raise ValueError(f"image: expected (B, 3, H, W), but got {tuple(image.shape)}")
    return [_measure(one[None].float().cpu().clamp(0, 1)) for one in image]


def _measure(image: Tensor) -> Quality:
    y, cb, cr = _ycbcr(image)
    r, g, b = image.unbind(1)
    rg, yb = (r - g).flatten(), (0.5 * (r + g) - b).flatten()
    spread = math.hypot(rg.std(correction=0).item(), yb.std(correction=0).item())
    colorfulness = spread + 0.3 * math.hypot(rg.mean().item(), yb.mean().item())
    flat = y.flatten()
    # torch.quantile refuses more than 2^24 values; a regular sample of a huge photo is as good.
    sample = flat[:: max(1, flat.numel() // 1_000_000)]
    low, high = torch.quantile(sample, torch.tensor([0.05, 0.95])).tolist()
    clipped = ((image <= 1 / 255).all(1) | (image >= 254 / 255).all(1)).float().mean().item()
    return Quality(
        blur_x=_blur(y, -1).item(),
        blur_y=_blur(y, -2).item(),
        noise=255.0 * _noise_std(y).item(),
        chroma_noise=255.0 * max(_noise_std(cb).item(), _noise_std(cr).item()),
        blocking=_blocking(y).item(),
        colorfulness=colorfulness,
        cast_red=cr.mean().item(),
        cast_blue=cb.mean().item(),
        exposure=y.mean().item(),
        contrast=high - low,
        clipped=clipped,
    )


def measured_prompts(image: Tensor) -> list[str]:
    """The quality prompt of every image of (B, 3, H, W) in [0, 1]: the `measured` captioner."""
    return [describe(quality) for quality in measure_quality(image)]


def level(value: float, thresholds: tuple[float, ...]) -> int:
    """How many of the ascending thresholds a value reaches."""
    return sum(value >= t for t in thresholds)


def describe(q: Quality) -> str:
    """The quality prompt: four sentences (clarity, color, noise, lighting), about 50 CLIP tokens."""
    clarity = CLARITY_WORDS[level(q.blur, BLUR_LEVELS)]
    if level(q.blur, BLUR_LEVELS) >= 2 and abs(q.blur_x - q.blur_y) > DIRECTION_THRESHOLD:
        clarity += " horizontally" if q.blur_x > q.blur_y else " vertically"
    color = COLOR_WORDS[level(q.colorfulness, COLORFULNESS_LEVELS)]
    cast = max(
        (q.cast_red, "reddish"),
        (q.cast_blue, "bluish"),
        (-q.cast_red - q.cast_blue, "greenish"),
        (-q.cast_blue, "yellowish"),
    )
    if cast[0] > CAST_THRESHOLD:
        color += f" with a {cast[1]} cast"
    noise = NOISE_WORDS[level(max(q.noise, q.chroma_noise), NOISE_LEVELS)]
    if level(q.chroma_noise, NOISE_LEVELS) >= 1 and q.chroma_noise > CHROMA_NOISE_RATIO * q.noise:
        noise = noise.replace("noise", "color noise")
    artifacts = BLOCKING_WORDS[level(q.blocking, BLOCKING_LEVELS)]
    exposure = EXPOSURE_WORDS[level(q.exposure, EXPOSURE_LEVELS)]
    lighting = f"{exposure} with {CONTRAST_WORDS[level(q.contrast, CONTRAST_LEVELS)]}"
    if q.clipped > CLIPPED_THRESHOLD:
        lighting += " and clipped areas"
    return (
        f"The low-resolution image has {clarity}. The color is {color}. "
        f"There is {noise} and {artifacts}. The lighting is {lighting}."
    )
