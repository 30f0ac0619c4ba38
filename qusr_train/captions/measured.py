"""The `measured` captioner: the quality prompt from numbers measured on the image itself.

The paper asks Qwen2.5-VL to "describe this low-resolution image, evaluating its quality based on
clarity, color, noise, and lighting". This captioner answers the same request without a language
model: each quality is measured and put into words.

| quality  | measured by                                                                          |
|----------|--------------------------------------------------------------------------------------|
| clarity  | sigma of the blur along each axis, in pixels (`estimators.py`)                       |
| noise    | standard deviation in grey levels, all of it and its colour (`estimators.py`)        |
| artifacts| JPEG loss, 100 - quality (`estimators.py`)                                           |
| color    | colorfulness (Hasler, Suesstrunk 2003); cast = distance of the mean from grey        |
| lighting | mean and 5-95 % range of luma, share of clipped pixels                               |
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .captioner import Caption, Progress
from .estimators import estimate_blur, estimate_jpeg_loss, estimate_noise, luma, noise_variance

BLUR_LEVELS = (0.26, 0.47, 0.74, 0.95)
CLARITY_WORDS = (
    "excellent clarity, very sharp",
    "good clarity, sharp",
    "fair clarity, slightly soft",
    "poor clarity, blurry",
    "very poor clarity, very blurry",
)
NOISE_LEVELS = (0.7, 2.0, 5.0, 10.0)
NOISE_WORDS = ("no visible noise", "slight noise", "noticeable noise", "strong noise", "severe noise")
BLOCKING_LEVELS = (5.0, 18.0, 40.0)
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
DIRECTION_THRESHOLD = 0.5  # difference of the blur between the two axes, pixels
CLIPPED_THRESHOLD = 0.02  # share of pixels
CHROMA_NOISE_RATIO = 0.9  # chroma noise over all noise: more is called colored


@dataclass(frozen=True)
class Quality:
    """What was measured on one image."""

    blur_x: float
    """Gaussian blur along x beyond a sharp photo's, sigma in pixels, 0 to 6."""
    blur_y: float
    """The same along y."""
    noise: float
    """Standard deviation of the noise of one channel in grey levels (0-255)."""
    chroma_noise: float
    """The part of `noise` that luma does not show; at most `noise`."""
    blocking: float
    """JPEG loss: 100 - quality, 0 without compression."""
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
    return [_measure(one.float().cpu().clamp(0, 1)) for one in image]


def _measure(image: Tensor) -> Quality:
    """(3, H, W) in [0, 1]."""
    r, g, b = image
    y = luma(image)
    rg, yb = (r - g).flatten(), (0.5 * (r + g) - b).flatten()
    spread = math.hypot(rg.std(correction=0).item(), yb.std(correction=0).item())
    colorfulness = spread + 0.3 * math.hypot(rg.mean().item(), yb.mean().item())
    flat = y.flatten()
    # torch.quantile refuses more than 2^24 values; a regular sample of a huge photo is as good.
    sample = flat[:: max(1, flat.numel() // 1_000_000)]
    low, high = torch.quantile(sample, torch.tensor([0.05, 0.95])).tolist()
    clipped = ((image <= 1 / 255).all(0) | (image >= 254 / 255).all(0)).float().mean().item()
    variance, of_luma = noise_variance(image)
    noise, chroma_noise = estimate_noise(variance, of_luma)
    return Quality(
        blur_x=estimate_blur(255.0 * y, variance),
        blur_y=estimate_blur(255.0 * y.T.contiguous(), variance),
        noise=noise,
        chroma_noise=chroma_noise,
        blocking=estimate_jpeg_loss(image),
        colorfulness=colorfulness,
        cast_red=0.713 * (r - y).mean().item(),
        cast_blue=0.564 * (b - y).mean().item(),
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


def caption_text(clarity: str, color: str, noise: str, artifacts: str, lighting: str) -> str:
    """The four sentences around the captioner's words."""
    return (
        f"The low-resolution image has {clarity}. The color is {color}. "
        f"There is {noise} and {artifacts}. The lighting is {lighting}."
    )


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
    return caption_text(clarity, color, noise, artifacts, lighting)


@dataclass(frozen=True)
class MeasuredCaptioner:
    """Numbers measured on the picture, in the words of the paper's instruction."""

    @property
    def identity(self) -> str:
        return "measured 2"

    def describe(self, images: Sequence[Tensor], progress: Progress) -> list[Caption]:
        captions = []
        for image in images:
            quality = measure_quality(image[None])[0]
            captions.append(Caption(describe(quality), dataclasses.asdict(quality)))
            progress(1)
        return captions
