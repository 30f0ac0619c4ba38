"""Overlapping tiles with gaussian weights, for latents larger than the denoiser can take at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from .gaussian import bell


@dataclass(frozen=True)
class Tile:
    """A window [y0, y1) x [x0, x1)."""

    y0: int
    y1: int
    x0: int
    x1: int

    def of(self, tensor: Tensor) -> Tensor:
        """The window of (B, C, H, W)."""
        return tensor[:, :, self.y0 : self.y1, self.x0 : self.x1]

    def scaled(self, factor: int) -> Tile:
        """The same window on a picture `factor` times as large."""
        return Tile(self.y0 * factor, self.y1 * factor, self.x0 * factor, self.x1 * factor)


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """First positions of windows of `tile` that cover `length`; the last one is flush with the end."""
    if tile >= length:
        return [0]
    step = max(1, tile - overlap)
    count = math.ceil((length - tile) / step) + 1
    return [min(i * step, length - tile) for i in range(count)]


def grid(height: int, width: int, tile: int, overlap: int) -> list[Tile]:
    """Windows over a (height, width) plane, x outer and y inner as in the reference."""
    if tile < 1 or not 0 <= overlap < tile:
        raise ValueError(f"tile must be positive and overlap in [0, tile), but got tile={tile}, overlap={overlap}")
    return [
        Tile(y, min(y + tile, height), x, min(x + tile, width))
        for x in starts(width, tile, overlap)
        for y in starts(height, tile, overlap)
    ]


def gaussian_weights(height: int, width: int) -> Tensor:
    """The reference's window weights, (height, width), float64: variance 0.01 of the side, centred."""

    def profile(n: int) -> Tensor:
        return bell(n, 0.1 * n, torch.float64) / math.sqrt(2 * math.pi * 0.01)

    return profile(height)[:, None] * profile(width)[None, :]


def smooth_weights(height: int, width: int, overlap: int) -> Tensor:
    """Window weights that cross-fade over the whole overlap, (height, width), float64: sin^2 ramps at both ends.

    The gaussian ones change from one tile to the next within a few pixels in the middle of the overlap, which shows as
    a ridge where the tiles differ.
    """

    def profile(n: int) -> Tensor:
        x = torch.arange(n, dtype=torch.float64) + 0.5
        to_the_end = torch.minimum(x, n - x)
        return torch.sin((to_the_end / max(1, min(overlap, n))).clamp(max=1.0) * math.pi / 2) ** 2

    return profile(height)[:, None] * profile(width)[None, :]


Blend = Literal["smooth", "gaussian"]
BLENDS: tuple[Blend, ...] = get_args(Blend)


def blend_tiles(
    x: Tensor,
    function: Callable[[Tensor, Tile], Tensor],
    tile: int,
    overlap: int,
    each: Callable[[], None] = lambda: None,
    blend: Blend = "gaussian",
) -> Tensor:
    """Apply `function` to overlapping windows and average the results with weights.

    Args:
        x: (B, C, H, W).
        function: gets a window (B, C, h, w) and its place, returns the same shape.
        tile, overlap: in pixels of x.
        each: called after every window (progress, interrupt).
        blend: `gaussian` weights as the reference, or `smooth` ones, see `smooth_weights`.

    Returns:
        (B, C, H, W), float32.
    """
    total = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    weight_sum = torch.zeros(x.shape[-2:], dtype=torch.float32, device=x.device)
    for window in grid(x.shape[-2], x.shape[-1], tile, overlap):
        result = function(window.of(x), window)
        height, width = result.shape[-2:]
        weights = smooth_weights(height, width, overlap) if blend == "smooth" else gaussian_weights(height, width)
        weights = weights.to(device=x.device, dtype=torch.float32)
        window.of(total).add_(result.float() * weights)
        weight_sum[window.y0 : window.y1, window.x0 : window.x1] += weights
        each()
    return total / weight_sum


def exact_tiles(x: Tensor, function: Callable[[Tensor, Tile], Tensor], tile: int, margin: int) -> Tensor:
    """Apply a function of bounded reach window by window; the result is that of the whole, without seams.

    Args:
        x: (B, C, H, W).
        function: gets a window (B, C, h, w) and its place, returns the same size with any number of channels; a pixel
            of its result depends on at most `margin` pixels to each side.
        tile: side of the part that is kept of a window. A function that halves its input n times needs tile and
            margin to be multiples of 2^n.
        margin: what each window has more on each side, and is thrown away.

    Returns:
        (B, C, H, W).
    """
    height, width = x.shape[-2:]
    if height <= tile and width <= tile:
        return function(x, Tile(0, height, 0, width))
    result: Tensor | None = None
    for y in range(0, height, tile):
        for x0 in range(0, width, tile):
            y1, x1 = min(y + tile, height), min(x0 + tile, width)
            window = Tile(max(y - margin, 0), min(y1 + margin, height), max(x0 - margin, 0), min(x1 + margin, width))
            part = function(window.of(x), window)
            if result is None:
                result = part.new_empty(*part.shape[:2], height, width)
            kept = Tile(y - window.y0, y1 - window.y0, x0 - window.x0, x1 - window.x0)
            result[:, :, y:y1, x0:x1] = kept.of(part)
    assert result is not None
    return result


def count_tiles(height: int, width: int, tile: int, overlap: int) -> int:
    """How many windows `blend_tiles` visits."""
    return len(grid(height, width, tile, overlap))


def iterate_images(batch: Tensor) -> Iterator[Tensor]:
    """Every image of (B, ...) as a batch of one."""
    for index in range(batch.shape[0]):
        yield batch[index : index + 1]
