"""Measuring what a model's map means: on pairs that it was not trained on, restored by itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..images.find import match_folders
from ..images.read import read_exact, read_image
from ..model.error_map import GREY_LEVELS
from ..model.map_calibration import MapCalibration, TrustLevel
from ..restore import RestoresPhotos
from .reliability import Reliability
from .trust import TrustCounts
from .uncertainty import pixel_error

ERRORS = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 16.0, 20.0, 24.0, 32.0, 48.0, 64.0)
"""Grey levels that are promised, each with its own threshold."""
CONFIDENCE = 0.9
POINTS = 64
"""Groups of equally many pixels that the curve is fitted to."""


@dataclass(frozen=True)
class CalibrationPairs:
    """Small photos and their targets, in the folders lr and hr."""

    folder: Path
    pairs: dict[str, tuple[Path, Path]]

    @classmethod
    def find(cls, folder: Path) -> CalibrationPairs:
        """Raises InputError: no such folders, or no common names."""
        for part in ("lr", "hr"):
            if not (folder / part).is_dir():
                raise InputError(f"expected the folders lr and hr in it, but {part} is missing", "pairs", folder)
        return cls(folder, dict(sorted(match_folders(folder / "lr", folder / "hr").items())))


def least_pairs(confidence: float) -> int:
    """How many pairs conformal risk control needs: 1 / (n + 1) must be below 1 - confidence."""
    return int(np.floor(1 / (1 - confidence) + 1e-9))


class Measurement:
    """Errors and maps of one pair after the other, and what follows from them.

    Args:
        errors: the promises, in grey levels.
    """

    def __init__(self, errors: tuple[float, ...] = ERRORS) -> None:
        self.reliability, self.counts = Reliability(), TrustCounts(errors)

    def add(self, magnitude: np.ndarray, error: np.ndarray) -> None:
        """Add a picture.

        Args:
            magnitude: (H, W), |U| averaged over the channels, as the module gives it.
            error: (H, W), in grey levels.
        """
        scaled = magnitude * GREY_LEVELS  # into the range of the narrow bins
        self.reliability.add(scaled, error)
        self.counts.add(scaled, error)

    def result(self, calibrated_on: str, confidence: float = CONFIDENCE) -> MapCalibration:
        """The calibration.

        Raises:
            InputError: too few pictures for the confidence, or a map that is the same everywhere.
        """
        number = len(self.counts.trusted)
        if number < least_pairs(confidence):
            raise InputError(
                f"a confidence of {confidence:g} needs at least {least_pairs(confidence)} pairs, but got {number}",
                "pairs",
            )
        curve = MapCalibration(rising_curve(self.reliability), calibrated_on=calibrated_on)
        levels = []
        for which, error in enumerate(self.counts.errors):
            edge = self.counts.threshold(which, 1 - confidence)
            levels.append(
                TrustLevel(
                    error, confidence, _at(curve, edge / GREY_LEVELS) if edge else 0.0, self.counts.trusted_share(edge)
                )
            )
        return MapCalibration(curve.curve, tuple(levels), calibrated_on)


def rising_curve(reliability: Reliability) -> tuple[tuple[float, float], ...]:
    """Mean error by |U| as rising points: isotonic regression (pool adjacent violators) of groups of pixels.

    Pooled groups become one point, so that between the points the curve rises and keeps the map's order.

    Returns:
        (|U|, grey levels), at least two points; a map with one value only gives a line through 0.

    Raises:
        InputError: the map is 0 everywhere.
    """
    pixels, predicted, observed = reliability.groups(POINTS)
    blocks: list[tuple[float, float, float]] = []  # pixels, mean |U|, mean error
    for block in zip(pixels, predicted / GREY_LEVELS, observed, strict=True):
        blocks.append(block)
        while len(blocks) > 1 and blocks[-2][2] >= blocks[-1][2]:
            (n, u, e), (m, v, f) = blocks.pop(), blocks.pop()
            blocks.append((n + m, (n * u + m * v) / (n + m), (n * e + m * f) / (n + m)))
    points = tuple((float(u), float(error)) for _, u, error in blocks)
    if not points or points[-1][0] <= 0:
        raise InputError("the map is 0 everywhere, so it says nothing about errors", "model")
    return points if len(points) > 1 else ((0.0, 0.0), *points)


def _at(curve: MapCalibration, magnitude: float) -> float:
    import torch

    return float(curve.of_magnitude(torch.tensor([magnitude]))[0])


def measure(restorer: RestoresPhotos, pairs: CalibrationPairs) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Restore each pair: |U| averaged over the channels, and the errors in grey levels, both (H, W).

    Raises:
        InputError: a target is not four times as large as its photo, or the model has no map.
    """
    for lr, hr in pairs.pairs.values():
        restored = restorer(read_image(lr).rgb)
        truth = read_exact(hr)
        if restored.uncertainty is None:
            raise InputError("has no uncertainty map to calibrate", "model")
        if restored.image.shape[-2:] != truth.shape[:2]:
            raise InputError(
                f"{hr}: is {truth.shape[1]} x {truth.shape[0]}; expected four times its photo {lr}, "
                f"{restored.image.shape[-1]} x {restored.image.shape[-2]}"
            )
        # Rounded as the file that the user gets.
        picture = (restored.image[0].double() * 255).round().div(255).movedim(0, -1).numpy()
        yield restored.uncertainty[0].abs().mean(0).double().numpy(), pixel_error(picture, truth)
