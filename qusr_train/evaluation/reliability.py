"""What errors really were where a map said so much: sums in narrow bins of the map, in memory that does not grow."""

from __future__ import annotations

import numpy as np

LOWEST, HIGHEST, COUNT = 1e-3, 1e3, 1200
"""Narrow bins: equal in the logarithm, 1.2 % wide; values outside go into the first and the last."""
EDGES = np.geomspace(LOWEST, HIGHEST, COUNT + 1)
BINS = 20


def bin_of(uncertainty: np.ndarray) -> np.ndarray:
    """Index of the narrow bin of each value: bin i holds EDGES[i] <= value < EDGES[i + 1]."""
    place = np.log(np.maximum(uncertainty, LOWEST) / LOWEST) * (COUNT / np.log(HIGHEST / LOWEST))
    return np.clip(place.astype(np.int64), 0, COUNT - 1)


class Reliability:
    """Pixels, and sums of map and error, for each narrow bin of the map; over as many pictures as are added."""

    def __init__(self) -> None:
        self.pixels, self.map_sum, self.error_sum = (np.zeros(COUNT) for _ in range(3))

    def add(self, uncertainty: np.ndarray, error: np.ndarray) -> None:
        """Add pixels.

        Args:
            uncertainty: any shape, at least 0.
            error: like it, in the same unit.
        """
        place = bin_of(uncertainty.ravel())
        self.pixels += np.bincount(place, minlength=COUNT)
        self.map_sum += np.bincount(place, uncertainty.ravel(), COUNT)
        self.error_sum += np.bincount(place, error.ravel(), COUNT)

    def merge(self, other: Reliability) -> None:
        """Add all the pixels of another one."""
        self.pixels += other.pixels
        self.map_sum += other.map_sum
        self.error_sum += other.error_sum

    def groups(self, count: int = BINS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Neighbouring bins put together into groups of about equally many pixels.

        Args:
            count: number of groups at most; fewer where the map has few different values.

        Returns:
            Pixels, mean of the map and mean error of each group, by rising map.
        """
        full = np.flatnonzero(self.pixels)
        if not full.size:
            return np.zeros(0), np.zeros(0), np.zeros(0)
        pixels = self.pixels[full]
        # A bin belongs to the group in which its middle pixel lies.
        group = ((np.cumsum(pixels) - pixels / 2) * count / pixels.sum()).astype(np.int64)
        sums = [np.bincount(group, one[full], count) for one in (self.pixels, self.map_sum, self.error_sum)]
        used = sums[0] > 0
        return sums[0][used], sums[1][used] / sums[0][used], sums[2][used] / sums[0][used]

    def ence(self, count: int = BINS) -> float:
        """Expected normalised calibration error (Levi et al. 2020), for a map of absolute errors.

        Theirs compares the root mean square of a predicted deviation with that of the error. A map of expected
        absolute errors is compared with the mean error: the mean over `count` groups of equally many pixels of
        |mean of the map - mean error| / mean of the map.
        """
        _, predicted, observed = self.groups(count)
        if not predicted.size:
            return 0.0
        return float(np.mean(np.abs(predicted - observed) / np.maximum(predicted, LOWEST)))
