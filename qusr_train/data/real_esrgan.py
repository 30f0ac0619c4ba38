"""Real-ESRGAN's second-order degradations (Wang et al. 2021, section 3), with its published ranges.

Twice: blur, resize, noise, JPEG; at the end a sinc filter, before or after the last JPEG. Filters run on
kornia. Unlike the original, every random choice comes from one generator, so that a sample is the same
in every process.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError
from .choices import Choices
from .degraded import SCALE, Degraded
from .filters import jpeg, sinc_kernel, squared_distance

KERNEL_SIZES = (7, 9, 11, 13, 15, 17, 19, 21)
KINDS = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")
KIND_SHARES = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
SINC_SHARE = 0.1
FINAL_SINC_SHARE = 0.8
GREY_NOISE_SHARE = 0.4


@dataclass(frozen=True)
class Order:
    """Ranges of one of the two rounds."""

    blur_share: float
    sigma: tuple[float, float]
    resize_shares: tuple[float, float, float]
    """Of enlarging, reducing and keeping the size."""
    resize: tuple[float, float]
    gaussian: tuple[float, float]
    """Standard deviation in grey levels of 255."""
    poisson: tuple[float, float]
    """Scale of the shot noise; 1 is that of 255 photons for white."""
    quality: tuple[float, float] = (30, 95)
    """JPEG quality."""


@dataclass(frozen=True)
class Ranges:
    """What the two rounds draw from."""

    first: Order
    second: Order


PUBLISHED = Ranges(
    Order(1.0, (0.2, 3.0), (0.2, 0.7, 0.1), (0.15, 1.5), (1, 30), (0.05, 3.0)),
    Order(0.8, (0.2, 1.5), (0.3, 0.4, 0.3), (0.3, 1.2), (1, 25), (0.05, 2.5)),
)
"""Real-ESRGAN's own."""
AUTHORS = Ranges(
    Order(1.0, (0.2, 3.0), (0.2, 0.7, 0.1), (0.3, 1.5), (1, 15), (0.05, 2.0), (60, 95)),
    Order(0.5, (0.2, 1.5), (0.3, 0.4, 0.3), (0.6, 1.2), (1, 12), (0.05, 1.0), (60, 100)),
)
"""Of the file beside QUSR's published code (src/datasets/params.yml): milder."""


def read_ranges(path: Path) -> Ranges:
    """Ranges from a JSON file: an object with `first` and `second`, each with fields of `Order`; the rest as published.

    Raises:
        InputError: not readable, an unknown field, or no two numbers where a range belongs.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        orders = {
            name: dataclasses.replace(getattr(PUBLISHED, name), **{k: _range(k, v) for k, v in changes.items()})
            for name, changes in content.items()
        }
        return dataclasses.replace(PUBLISHED, **orders)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        known = ", ".join(f.name for f in dataclasses.fields(Order))
        raise InputError(
            f"expected an object with `first` and `second`, each with some of {known} ({error})",
            "degradation_ranges",
            path,
        ) from error


def _range(name: str, value: Any) -> Any:
    count = {"blur_share": 0, "resize_shares": 3}.get(name, 2)
    if count == 0:
        return float(value)
    numbers = tuple(float(number) for number in value)
    if len(numbers) != count or (count == 2 and numbers[0] > numbers[1]):
        raise ValueError(f"{name}: expected {count} numbers, low before high, but got {value}")
    return numbers


def blur_kernel(kind: str, size: int, sigma_x: float, sigma_y: float, angle: float, beta: float = 1.0) -> Tensor:
    """A blur kernel, (size, size), sums to 1.

    With d the squared Mahalanobis distance: gaussian exp(-d / 2), generalized exp(-d^beta / 2), plateau
    1 / (1 + d^beta). The isotropic kinds ignore sigma_y and angle.

    Args:
        kind: one of `KINDS`.
        size: odd.
        sigma_x, sigma_y: in pixels.
        angle: in radians.
        beta: shape of the generalized and plateau kinds.
    """
    if kind not in KINDS:
        raise ValueError(f"blur kernel must be one of {', '.join(KINDS)}, but got {kind!r}")
    if not kind.endswith("aniso"):
        sigma_y, angle = sigma_x, 0.0
    distance = squared_distance(size, sigma_x, sigma_y, angle)
    if kind.startswith("plateau"):
        kernel = 1 / (1 + distance**beta)
    else:
        kernel = torch.exp(-0.5 * (distance**beta if kind.startswith("generalized") else distance))
    return kernel / kernel.sum()


def random_kernel(choices: Choices, order: Order) -> Tensor:
    """The blur of one round: sinc, or one of `KINDS`."""
    size = KERNEL_SIZES[choices.pick((1.0,) * len(KERNEL_SIZES))]
    if choices.chance(SINC_SHARE):
        # Smaller kernels cannot hold the ringing of low cutoffs.
        return sinc_kernel(choices.uniform(math.pi / 3 if size < 13 else math.pi / 5, math.pi), size)
    kind = KINDS[choices.pick(KIND_SHARES)]
    sigma_x, sigma_y = choices.uniform(*order.sigma), choices.uniform(*order.sigma)
    angle = choices.uniform(-math.pi, math.pi)
    low, high = (1.0, 2.0) if kind.startswith("plateau") else (0.5, 4.0)
    beta = choices.uniform(low, 1.0) if choices.chance(0.5) else choices.uniform(1.0, high)
    return blur_kernel(kind, size, sigma_x, sigma_y, angle, beta)


def _filter(image: Tensor, kernel: Tensor) -> Tensor:
    from kornia.filters import filter2d

    return filter2d(image, kernel[None], border_type="reflect")


def _resize(image: Tensor, height: int, width: int, choices: Choices) -> Tensor:
    mode = ("area", "bilinear", "bicubic")[choices.pick((1.0, 1.0, 1.0))]
    corners = None if mode == "area" else False
    return F.interpolate(image, size=(height, width), mode=mode, align_corners=corners)


def _noise(image: Tensor, order: Order, choices: Choices) -> Tensor:
    grey = choices.chance(GREY_NOISE_SHARE)
    if choices.chance(0.5):
        shape = (image.shape[0], 1, *image.shape[2:]) if grey else tuple(image.shape)
        return image + choices.normal(shape) * (choices.uniform(*order.gaussian) / 255)
    clean = (image.clamp(0, 1) * 255).round() / 255
    if grey:
        clean = (clean * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    levels = 2 ** math.ceil(math.log2(max(2, len(torch.unique((clean * 255).round())))))
    shot = choices.poisson(clean * levels) / levels - clean
    return image + shot * choices.uniform(*order.poisson)


def _round(image: Tensor, order: Order, target: tuple[int, int] | None, choices: Choices) -> Tensor:
    """Blur, resize and noise of one round.

    Args:
        image: (1, 3, H, W) in [0, 1].
        target: size that the round's factor refers to; the image's own if None.
    """
    if choices.chance(order.blur_share):
        image = _filter(image, random_kernel(choices, order))
    direction = choices.pick(order.resize_shares)
    factor = (choices.uniform(1.0, order.resize[1]), choices.uniform(order.resize[0], 1.0), 1.0)[direction]
    height, width = target or image.shape[-2:]
    smallest = KERNEL_SIZES[-1] // 2 + 2  # a filter reflects half its size at the border
    height, width = (max(smallest, round(length * factor)) for length in (height, width))
    image = _resize(image, height, width, choices)
    return _noise(image, order, choices).clamp(0, 1)


def sharpen_target(image: Tensor, amount: float = 0.5, radius: int = 50, threshold: float = 10.0) -> Tensor:
    """Real-ESRGAN's unsharp mask: only where the detail exceeds `threshold` grey levels, blended softly.

    Args:
        image: (B, 3, H, W) in [0, 1].
        radius: of the gaussian, in pixels (sigma as OpenCV derives it from the size).
    """
    from kornia.filters import gaussian_blur2d

    size = min(radius + 1 - radius % 2, 2 * (min(image.shape[-2:]) // 2) - 1)
    sigma = 0.3 * ((size - 1) * 0.5 - 1) + 0.8

    def blur(x: Tensor) -> Tensor:
        return gaussian_blur2d(x, (size, size), (sigma, sigma))

    detail = image - blur(image)
    mask = blur((detail.abs() * 255 > threshold).float())
    return mask * (image + amount * detail).clamp(0, 1) + (1 - mask) * image


def degrade_second_order(
    photo: Tensor, generator: torch.Generator, scale: int = SCALE, sharpen: bool = False, ranges: Ranges = PUBLISHED
) -> Degraded:
    """Make a training pair.

    Args:
        photo: (1, 3, H, W) in [0, 1], H and W multiples of `scale`.
        generator: every random choice comes from it.
        scale: downscaling factor.
        ranges: what is drawn from.
        sharpen: make the target an unsharp-masked copy (the input is made from that, too).

    Returns:
        The pair, without what was applied: two rounds have no single blur, noise and quality.
    """
    choices = Choices(generator)
    height, width = photo.shape[-2] // scale, photo.shape[-1] // scale
    hr = sharpen_target(photo) if sharpen else photo
    x = _round(hr, ranges.first, None, choices)
    x = jpeg(x, round(choices.uniform(*ranges.first.quality)))
    x = _round(x, ranges.second, (height, width), choices)
    final = sinc_kernel(choices.uniform(math.pi / 3, math.pi)) if choices.chance(FINAL_SINC_SHARE) else None
    quality = round(choices.uniform(*ranges.second.quality))
    if choices.chance(0.5):
        x = _last_size(x, height, width, final, choices)
        x = jpeg(x.clamp(0, 1), quality)
    else:
        x = jpeg(x, quality)
        x = _last_size(x, height, width, final, choices)
    x = (x.clamp(0, 1) * 255).round() / 255
    return Degraded(lr=x, hr=hr)


def _last_size(x: Tensor, height: int, width: int, final: Tensor | None, choices: Choices) -> Tensor:
    x = _resize(x, height, width, choices)
    return x if final is None else _filter(x, final)
