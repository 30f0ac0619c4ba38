"""How blurred, noisy and compressed is a picture? Each estimate in the unit of the degradation itself.

| of   | unit                                   | estimator                                                     |
|------|----------------------------------------|---------------------------------------------------------------|
| blur | sigma of a gaussian, in pixels         | edges before and after a known second blur (Zhuo, Sim 2011)   |
| noise| standard deviation, in grey levels     | the flattest blocks' distance from a plane (after Lee, Hoppel |
|      |                                        | 1989; the plane takes shading out, blotches stay in)          |
| JPEG | 100 - quality                          | DCT coefficients on multiples of the quantizer's steps, most  |
|      |                                        | likely quality (Fan, de Queiroz 2003); else the height of the |
|      |                                        | steps on the 8-pixel grid (after Wang, Sheikh, Bovik 2002)    |

The constants were fitted on one half of the training photos and checked on the other; `python -m
tests.tools.estimators` repeats the check on any folder of photos.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from ..images.gaussian import gaussian_window

SECOND_BLUR = 0.7  # pixels
STRONGEST_EDGES = 0.03  # share of the local maxima of the gradient
OWN_BLUR = 0.7  # what a sharp photo measures, in pixels; 0.58 of it is the central difference. Subtracted in quadrature
NOISE_IN_EDGES = 1.5  # how much of the noise variance is in the squared gradient of the strongest edges
MOST_BLUR = 6.0

NOISE_BLOCK = 6  # pixels: wide enough for a denoiser's blotches, small enough to find flat places
FLATTEST = 0.003  # share of the blocks
ROUNDING = 0.25  # variance that rounding to 8 bits and fine texture leave in the flattest blocks
NOISE_GAIN = 1.3  # the flattest blocks hold less than the average noise, and blotches look like shading

BLOCK = 8
JPEG_QUALITIES = range(10, 98)
JPEG_EVIDENCE = 8.0  # log likelihood against an uncompressed picture
JPEG_COEFFICIENTS = 600  # as many are looked at; more change nothing
ROUNDING_IN_DCT = 0.3  # standard deviation, grey levels
GRID_SEEN = 0.05  # a grid worth looking at; 95 % of uncompressed photos stay below
GRID_SURE = 0.15  # none of 326 uncompressed pictures reached it
LUMINANCE_STEPS = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
"""Quantizer of the JPEG standard (ITU T.81, table K.1) that encoders scale by their quality."""


def luma(image: Tensor) -> Tensor:
    """(..., 3, H, W) -> (..., H, W), BT.601."""
    r, g, b = image.unbind(-3)
    return 0.299 * r + 0.587 * g + 0.114 * b


# --- noise ------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def _off_plane(size: int) -> Tensor:
    """(size^2, size^2): removes the best plane from a flattened block."""
    r = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    plane = torch.stack([torch.ones(size * size, dtype=torch.float64), r.repeat(size), r.repeat_interleave(size)], 1)
    off = torch.eye(size * size, dtype=torch.float64) - plane @ torch.linalg.pinv(plane)
    return off.float()


def noise_variance(image: Tensor) -> tuple[float, float]:
    """Variance in the flattest blocks, in squared grey levels: mean of R, G and B, and of luma.

    Args:
        image: (3, H, W) in [0, 1].
    """
    size = min(NOISE_BLOCK, *image.shape[-2:])
    if size < 3:
        return 0.0, 0.0
    # A larger photo is sampled on a coarser grid: about 10,000 blocks say the same as millions.
    stride = max(1, size // 2, round(size / 2 * math.sqrt(image.shape[-2] * image.shape[-1] / 1e5)))
    blocks = image.unfold(1, size, stride).unfold(2, size, stride).reshape(3, -1, size * size) * 255.0
    inside = ((blocks > 1.5) & (blocks < 253.5)).all(2).all(0)  # clipping hides noise
    if int(inside.sum()) >= 16:
        blocks = blocks[:, inside]
    rest = blocks @ _off_plane(size)
    freedom = size * size - 3
    both = torch.stack([rest.square().sum(2).mean(0), luma(rest.transpose(0, 1)[..., None])[..., 0].square().sum(1)])
    both = both / freedom  # (2, blocks)
    count = min(max(4, int(both.shape[1] * FLATTEST)), both.shape[1])
    flattest = both[0].topk(count, largest=False).indices
    total, of_luma = both[:, flattest].mean(1).tolist()
    return total, of_luma


def estimate_noise(total: float, of_luma: float) -> tuple[float, float]:
    """Standard deviation of the noise of one channel, and of the part that luma does not show, in grey levels.

    For noise that is the same in R, G and B the second is 0; independent in each, 0.74 of the first.

    Args:
        total, of_luma: from `noise_variance`.
    """
    noise = max(0.0, total - ROUNDING)
    chroma = min(noise, max(0.0, total - of_luma - ROUNDING))
    return NOISE_GAIN * math.sqrt(noise), NOISE_GAIN * math.sqrt(chroma)


# --- blur -------------------------------------------------------------------------------------


def estimate_blur(y: Tensor, noise: float = 0.0) -> float:
    """Sigma of the gaussian that blurred a picture along x, in pixels, 0 to 6.

    An edge of blur s has a gradient of height 1 / s; after a second blur t, 1 / sqrt(s^2 + t^2). The
    ratio R of the two gives s = t / sqrt(R^2 - 1) (Zhuo, Sim 2011, equation 5), whatever the contrast.

    Args:
        y: (H, W) luma in grey levels.
        noise: variance of one pixel; it would pass for sharpness.

    Returns:
        MOST_BLUR for a picture without edges.
    """
    kernel = gaussian_window(2 * math.ceil(4 * SECOND_BLUR) + 1, SECOND_BLUR)
    margin = len(kernel) // 2
    if y.shape[1] < 2 * margin + 5:
        return MOST_BLUR
    again = F.conv2d(y[None, None], kernel[None, None, None])[0, 0]
    once = y[:, margin:-margin]
    gradient = 0.5 * (once[:, 2:] - once[:, :-2])
    weaker = 0.5 * (again[:, 2:] - again[:, :-2])
    height = gradient.abs()
    middle = height[:, 1:-1]
    peak = (middle >= height[:, :-2]) & (middle > height[:, 2:])
    before, after = middle[peak], weaker[:, 1:-1][peak]
    if len(before) < 4:
        return MOST_BLUR
    strongest = before.topk(min(len(before), max(8, int(len(before) * STRONGEST_EDGES))))
    edge = strongest.values.square().mean().item()
    edge -= min(NOISE_IN_EDGES * noise, 0.5 * edge)  # texture everywhere also passes for noise
    ratio = edge / max(after[strongest.indices].square().mean().item(), 1e-6)
    if ratio <= 1.0:
        return MOST_BLUR
    found = SECOND_BLUR / math.sqrt(ratio - 1.0)
    return min(MOST_BLUR, math.sqrt(max(0.0, found * found - OWN_BLUR * OWN_BLUR)))


# --- JPEG -------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _jpeg_tables() -> tuple[Tensor, Tensor, Tensor]:
    """DCT matrix (8, 8); which coefficients are read (64,); their steps at each quality (qualities, read)."""
    n = torch.arange(BLOCK, dtype=torch.float64)
    dct = 0.5 * torch.cos((2 * n[None] + 1) * n[:, None] * math.pi / 16)
    dct[0] /= math.sqrt(2)
    order = n[:, None] + n[None]
    read = ((order > 0) & (order <= 4)).flatten()
    base = torch.tensor(LUMINANCE_STEPS, dtype=torch.float64).flatten()[read]
    scales = [5000 // q if q < 50 else 200 - 2 * q for q in JPEG_QUALITIES]
    steps = torch.stack([((base * s + 50) / 100).floor().clamp(1, 255) for s in scales])
    return dct.float(), read, steps.float()


def _likeliest_quality(image: Tensor, top: int, left: int) -> int | None:
    """Quality of the JPEG whose blocks begin at (top, left), or None if the picture does not look like one."""
    dct, read, steps = _jpeg_tables()
    height, width = (image.shape[1] - top) // BLOCK * BLOCK, (image.shape[2] - left) // BLOCK * BLOCK
    if height == 0 or width == 0:
        return None
    levels = image[:, top : top + height, left : left + width]
    grid = levels.unfold(1, BLOCK, BLOCK).unfold(2, BLOCK, BLOCK)  # (3, rows, columns, 8, 8)
    sparse = max(1, math.isqrt(grid.shape[1] * grid.shape[2] // 1000))  # of a large photo, every n-th block
    blocks = grid[:, ::sparse, ::sparse].reshape(3, -1, BLOCK, BLOCK) * 255.0
    unclipped = ((blocks > 0.5) & (blocks < 254.5)).flatten(2).all(2).all(0)  # clipping moves the coefficients
    kept = blocks[:, unclipped]
    if kept.shape[1] == 0:
        return None
    y = luma(kept[:, :: max(1, kept.shape[1] // 100)].transpose(0, 1))
    coefficients = (dct @ y @ dct.T).flatten(1)[:, read].abs()  # (blocks, read)
    which, position = (coefficients > 0.6).nonzero(as_tuple=True)
    stride = max(1, len(which) // JPEG_COEFFICIENTS)
    which, position = which[::stride], position[::stride]
    value, step = coefficients[which, position], steps[:, position]  # (n,), (qualities, n)
    multiple = (value / step).round()
    off = (value - multiple * step) / ROUNDING_IN_DCT
    # Near a multiple with rounding noise, against anywhere between two multiples.
    likelihood = step.log() - math.log(ROUNDING_IN_DCT * math.sqrt(2 * math.pi)) - 0.5 * off.square()
    evidence = (likelihood.clamp(min=-4.0) * (multiple > 0)).sum(1)
    best = len(evidence) - 1 - int(evidence.flip(0).argmax())  # the higher of two qualities with the same steps
    return JPEG_QUALITIES[best] if evidence[best].item() > JPEG_EVIDENCE else None


def _grid(y: Tensor) -> tuple[float, int]:
    """How far steps on the strongest of 8 phases along x stand out, and that phase. y: (H, W) in [0, 1]."""
    if y.shape[1] < 24:
        return 0.0, 0
    # A step between pixels i + 1 and i + 2 beyond the slope on both sides; the clamp keeps edges out.
    step = (y[:, 2:-1] - y[:, 1:-2] - 0.5 * (y[:, 3:] - y[:, 2:-1] + y[:, 1:-2] - y[:, :-3])).abs()
    step = step.clamp(max=0.1).mean(0)
    phases = step[: len(step) // BLOCK * BLOCK].unflatten(0, (-1, BLOCK)).mean(0)
    ordered = phases.sort().values
    score = (ordered[7] - ordered[6]) / (ordered[2:6].mean() + 1e-3)
    return score.item(), (int(phases.argmax()) + 2) % BLOCK


def estimate_jpeg_loss(image: Tensor) -> float:
    """100 - quality of the JPEG that a picture was stored as last; 0 if none is found (or above quality 97).

    Args:
        image: (3, H, W) in [0, 1], at its own size: after resizing nothing is found.
    """
    quality = _likeliest_quality(image, 0, 0)
    if quality is not None:
        return 100.0 - quality
    y = luma(image)
    (score_x, left), (score_y, top) = _grid(y), _grid(y.T)
    score = 0.5 * (score_x + score_y)
    if score >= GRID_SEEN and (top, left) != (0, 0):  # a crop of a JPEG
        quality = _likeliest_quality(image, top, left)
        if quality is not None:
            return 100.0 - quality
    # Compressed and then edited: only the height of the steps is left, about 0.2 at quality 75, 0.4 at 50.
    return min(90.0, 130.0 * score) if score >= GRID_SURE else 0.0
