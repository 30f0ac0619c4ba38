"""How well a map of expected errors tells where a picture is wrong.

Two questions. *Order*: are the pixels that the map calls worst the worst ones? Sparsification (Ilg et al., ECCV 2018;
Poggi et al., CVPR 2020) takes pixels away, worst by the map first, and looks at the mean error of what remains.
*Scale*: where the map says 5 grey levels, is the mean error 5 grey levels? (ENCE, Levi et al. 2020.)

The error of a pixel is the mean over the three colours of |prediction - truth|, in grey levels (0 to 255).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from .reliability import Reliability

STEPS = 100
"""Shares of pixels taken away: 0, 1 / STEPS, ... (STEPS - 1) / STEPS."""
WINDOW = 9
"""Side in pixels of the window that `ause_9x9` averages errors over."""
_LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class MapFigures:
    """What one map is worth; see the functions of this file. Lower is better but for `aurg`."""

    ause: float
    """Area between the map's sparsification curve and the oracle's; 0: the map orders pixels as the error does."""
    aurg: float
    """Area between the map's curve and that of a random order; above 0: better than chance."""
    ause_9x9: float
    """`ause` with errors averaged over 9 x 9 pixels: where, not which single pixel."""
    ence: float
    """Calibration error; 0: in every bin the mean of the map is the mean error."""
    map_luma: float
    """|correlation| of the map with the picture's brightness, 0 to 1: a map of errors hardly follows it."""
    map_flat: float
    """The map's mean on the flattest quarter of the picture over its mean; flat areas have few errors."""


def pixel_error(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(H, W): mean absolute difference over the colours, in grey levels, of two (H, W, 3) pictures in [0, 1]."""
    return np.abs(prediction - truth).mean(-1) * 255.0


def sparsification(order: np.ndarray, error: np.ndarray, steps: int = STEPS) -> np.ndarray:
    """Mean error of the pixels that remain when those with the highest `order` are taken away, over the full mean.

    Pixels of equal order go in the order of the array.

    Args:
        order: any shape; the map, or the error itself for the oracle.
        error: like `order`, at least 0.
        steps: number of shares.

    Returns:
        (steps,), the value at share i / steps; the first is 1. All 0 for a picture without errors.
    """
    if order.shape != error.shape:
        raise InputError(f"map and error must have the same shape, but got {order.shape} and {error.shape}")
    total = float(error.sum(dtype=np.float64))
    if total == 0:
        return np.zeros(steps)
    ordered = error.ravel()[np.argsort(-order.ravel(), kind="stable")]
    taken = np.concatenate([[0.0], np.cumsum(ordered, dtype=np.float64)])
    count = ordered.size
    first = np.arange(steps) * count // steps
    return (total - taken[first]) / (count - first) / (total / count)


def ause(uncertainty: np.ndarray, error: np.ndarray, steps: int = STEPS) -> float:
    """Area under the sparsification error: mean over the shares of the map's curve minus the oracle's."""
    return float(np.mean(sparsification(uncertainty, error, steps) - sparsification(error, error, steps)))


def aurg(uncertainty: np.ndarray, error: np.ndarray, steps: int = STEPS) -> float:
    """Area under the random gain: mean over the shares of a random order's curve (1 everywhere) minus the map's."""
    return float(np.mean(1.0 - sparsification(uncertainty, error, steps))) if error.any() else 0.0


def mean_of_windows(values: np.ndarray, window: int = WINDOW) -> np.ndarray:
    """(H, W): mean over a window around each pixel, borders repeated."""
    padded = np.pad(values.astype(np.float64), window // 2, mode="edge")
    for axis in (0, 1):
        sums = np.cumsum(padded, axis=axis)
        sums = np.concatenate([np.zeros_like(sums.take([0], axis)), sums], axis)
        length = padded.shape[axis] - window + 1
        padded = (np.take(sums, range(window, window + length), axis) - np.take(sums, range(length), axis)) / window
    return padded


def luma_correlation(uncertainty: np.ndarray, picture: np.ndarray) -> float:
    """|Pearson's correlation| of the map (H, W) with the luma of a picture (H, W, 3); 0 if one of them is constant."""
    u = uncertainty.ravel().astype(np.float64)
    y = (picture @ _LUMA).ravel()
    u, y = u - u.mean(), y - y.mean()
    scale = float(np.sqrt((u @ u) * (y @ y)))
    return abs(float(u @ y)) / scale if scale > 1e-12 else 0.0


def flat_share(uncertainty: np.ndarray, picture: np.ndarray) -> float:
    """The map's mean on the flattest quarter of a picture over its mean over all.

    Flat: the lowest quarter of |dx| + |dy| of the luma (forward differences, borders repeated), averaged over 9 x 9.
    """
    y = picture @ _LUMA
    slope = np.abs(np.diff(y, axis=1, append=y[:, -1:])) + np.abs(np.diff(y, axis=0, append=y[-1:]))
    slope = mean_of_windows(slope)
    flat = slope <= np.quantile(slope, 0.25)
    mean = float(uncertainty.mean(dtype=np.float64))
    return float(uncertainty[flat].mean(dtype=np.float64)) / mean if mean else 1.0


def map_figures(uncertainty: np.ndarray, prediction: np.ndarray, truth: np.ndarray) -> MapFigures:
    """Everything about one map.

    Args:
        uncertainty: (H, W), expected absolute error in grey levels.
        prediction: (H, W, 3) in [0, 1], the picture the map belongs to.
        truth: (H, W, 3) in [0, 1]; it also tells where is flat, so that all methods are asked about the same places.
    """
    error = pixel_error(prediction, truth)
    reliability = Reliability()
    reliability.add(uncertainty, error)
    return MapFigures(
        ause=ause(uncertainty, error),
        aurg=aurg(uncertainty, error),
        ause_9x9=ause(uncertainty, mean_of_windows(error)),
        ence=reliability.ence(),
        map_luma=luma_correlation(uncertainty, prediction),
        map_flat=flat_share(uncertainty, truth),
    )
