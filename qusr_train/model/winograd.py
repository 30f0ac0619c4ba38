"""3 x 3 convolutions with less than half of the multiplications, for float32 on a CPU.

Stable Diffusion's work is 3 x 3 convolutions, and a CPU does them at the speed of its multiplications. Winograd's
F(4 x 4, 3 x 3) (Lavin and Gray 2016, arXiv 1509.09308) needs 36 of them for 16 pixels instead of 144. With the
interpolation points 0, +-sqrt(1/2), +-sqrt(2) and infinity its rounding error is five times that of the direct sum
(1.1e-6 against 2.2e-7 of the result's spread); through SD 2.1's decoder with random weights 0.1 grey levels at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

OUT, TAPS = 4, 3
IN = OUT + TAPS - 1
POINTS = (0.0, 0.5**0.5, -(0.5**0.5), 2.0**0.5, -(2.0**0.5))
"""And infinity."""
TILES_AT_ONCE = 128
"""Tiles of 4 x 4 pixels: what is between the steps then stays in the cache, and the products are large enough."""
LEAST_CHANNELS, LEAST_TILES = 96, 256
"""Smaller layers are faster directly: the transforms cost more than they save."""


@cache
def transforms() -> tuple[Tensor, Tensor, Tensor]:
    """B^T (36, 36), G (36, 9) and A^T (16, 36) for flattened tiles: Toom and Cook's, both directions in one."""
    points = torch.tensor(POINTS, dtype=torch.float64)
    last = len(POINTS)  # row of infinity
    a = torch.zeros(OUT, IN, dtype=torch.float64)
    g = torch.zeros(IN, TAPS, dtype=torch.float64)
    b = torch.zeros(IN, IN, dtype=torch.float64)
    for row, point in enumerate(points):
        others = torch.cat([points[:row], points[row + 1 :]])
        a[:, row] = point ** torch.arange(OUT)
        g[row] = point ** torch.arange(TAPS) / (point - others).prod()
        b[row, :last] = _polynomial(others)
    a[OUT - 1, last], g[last, TAPS - 1], b[last] = 1.0, 1.0, _polynomial(points)
    rows = 2.0 ** b.abs().sum(1).log2().round()[:, None]  # values of one size in all rows
    b, g = b / rows, g * rows
    return torch.kron(b, b).float(), torch.kron(g, g), torch.kron(a, a).float()


def _polynomial(roots: Tensor) -> Tensor:
    """Coefficients of the product of (x - root), the constant first."""
    coefficients = torch.ones(1, dtype=torch.float64)
    for root in roots:
        coefficients = F.pad(coefficients, (1, 0)) - root * F.pad(coefficients, (0, 1))
    return coefficients


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The convolution of stride 1 with zeros around it.

    Args:
        x: (B, C, H, W), float32.
        weight: (O, C, 3, 3).
        bias: (O,).

    Returns:
        (B, O, H, W) in the channels-last layout.
    """
    to_tiles, to_taps, to_pixels = transforms()
    batch, channels, height, width = x.shape
    out = weight.shape[0]
    flat = weight.permute(2, 3, 1, 0).reshape(TAPS * TAPS, channels * out)
    taps = (to_taps.float() @ flat).view(IN * IN, channels, out)
    columns, lines = -(-width // OUT), -(-height // OUT)
    at_once = max(1, TILES_AT_ONCE // columns)
    result = x.new_empty(batch, height, width, out)
    for image, pixels in zip(result, x.permute(0, 2, 3, 1), strict=True):
        for line in range(0, lines, at_once):
            count = min(at_once, lines - line)
            y, y_end = line * OUT, min((line + count) * OUT, height)
            top, bottom = max(y - 1, 0), min(y_end + 1, height)
            strip = x.new_zeros(count * OUT + 2, columns * OUT + 2, channels)
            strip[top - y + 1 : bottom - y + 1, 1 : width + 1] = pixels[top:bottom]
            tiles = strip.unfold(0, IN, OUT).unfold(1, IN, OUT)  # (count, columns, C, 6, 6)
            tiles = tiles.permute(3, 4, 0, 1, 2).reshape(IN * IN, -1)
            products = torch.bmm((to_tiles @ tiles).view(IN * IN, -1, channels), taps)  # (36, tiles, O)
            part = (to_pixels @ products.view(IN * IN, -1)).view(OUT, OUT, count, columns, out)
            part = part.permute(2, 0, 3, 1, 4).reshape(count * OUT, columns * OUT, out)[: y_end - y, :width]
            torch.add(part, 0.0 if bias is None else bias, out=image[y:y_end])
    return result.permute(0, 3, 1, 2)


def pays(x: Tensor, weight: Tensor) -> bool:
    """Whether `convolve` takes a convolution of stride 1 and padding 1, and is faster than the direct one."""
    return (
        x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.ndim == 4
        and weight.shape[2:] == (TAPS, TAPS)
        and min(weight.shape[:2]) >= LEAST_CHANNELS
        and -(-x.shape[-2] // OUT) * -(-x.shape[-1] // OUT) >= LEAST_TILES
        and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
    )


class _Convolutions(TorchFunctionMode):
    """Takes over every `conv2d` of the code inside, whichever library's modules call it."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.conv2d and not kwargs:
            x, weight, bias, stride, padding, dilation, groups = args + _DEFAULTS[len(args) :]
            around = [_both(stride), _both(padding), _both(dilation), groups]
            if around == [(1, 1), (1, 1), (1, 1), 1] and x.shape[1] == weight.shape[1] and pays(x, weight):
                return convolve(x, weight, bias)
        return func(*args, **(kwargs or {}))


_DEFAULTS: tuple[Any, ...] = (None, None, None, 1, 0, 1, 1)  # of conv2d


def _both(side: Any) -> tuple[Any, Any]:
    return tuple(side) if isinstance(side, (tuple, list)) else (side, side)


@contextmanager
def fast_convolutions() -> Iterator[None]:
    """Inside, convolutions that `pays` finds worth it go through `convolve`; a GPU and half precision stay as is."""
    with _Convolutions():
        yield
