"""Which pixels to trust: thresholds of a map by conformal risk control (Angelopoulos et al., 2022, arXiv 2208.02814).

A pixel is trusted where the map is below a threshold T. The risk of T is the expected share, among the trusted pixels
of a picture, of those with an error above X; it is to be at most alpha. Pictures are exchangeable, pixels of one are
not, so a picture is the unit: its loss at T is

    l(T) = max over t <= T of  (trusted pixels with an error above X) / max(trusted pixels, 1 % of the picture)

The maximum makes it rise with T, which the theorem asks for; the 1 % keeps a handful of pixels from deciding. With n
pictures, the largest T with

    n / (n + 1) * mean of l(T) + 1 / (n + 1) <= alpha

has a risk of at most alpha on a new picture, in expectation over the calibration and the picture, for any distribution
and any map. (For a picture with less than 1 % trusted pixels, the share is counted as if there were 1 %.)
"""

from __future__ import annotations

import numpy as np

from .reliability import COUNT, EDGES, bin_of

LEAST_SHARE = 0.01


class TrustCounts:
    """For each picture: pixels, and pixels with too large an error, below each edge of the map's narrow bins.

    Args:
        errors: the promises X, in the unit of the errors that are added.
    """

    def __init__(self, errors: tuple[float, ...]) -> None:
        self.errors = errors
        self.trusted: list[np.ndarray] = []
        """(COUNT + 1,) for each picture: share of its pixels below EDGES[i]."""
        self.wrong: list[np.ndarray] = []
        """(errors, COUNT + 1) for each picture: share of its pixels below EDGES[i] with an error above X."""

    def add(self, uncertainty: np.ndarray, error: np.ndarray) -> None:
        """Add one picture.

        Args:
            uncertainty: any shape, at least 0; in any unit, only its order counts.
            error: like it.
        """
        place = bin_of(uncertainty.ravel())
        flat = error.ravel()
        self.trusted.append(_below(place, flat.size))
        self.wrong.append(np.stack([_below(place[flat > x], flat.size) for x in self.errors]))

    def losses(self, which: int) -> np.ndarray:
        """l(EDGES[i]) of each picture for the promise `errors[which]`: (pictures, COUNT + 1), in [0, 1], rising."""
        trusted, wrong = np.stack(self.trusted), np.stack([one[which] for one in self.wrong])
        return np.maximum.accumulate(wrong / np.maximum(trusted, LEAST_SHARE), axis=1)

    def threshold(self, which: int, alpha: float) -> float:
        """The largest edge T whose risk is at most alpha; 0: there is none, as with too few pictures."""
        losses = self.losses(which)
        count = len(losses)
        bound = count / (count + 1) * losses.mean(0) + 1 / (count + 1)
        good = np.flatnonzero(bound <= alpha)
        return float(EDGES[good[-1]]) if good.size and good[-1] > 0 else 0.0

    def trusted_share(self, threshold: float) -> float:
        """Share of pixels below a threshold that is an edge, mean over the pictures."""
        return float(np.mean([one[np.searchsorted(EDGES, threshold)] for one in self.trusted])) if threshold else 0.0


def _below(place: np.ndarray, total: int) -> np.ndarray:
    """(COUNT + 1,): number in bins before each edge, over `total`."""
    return np.concatenate([[0.0], np.cumsum(np.bincount(place, minlength=COUNT))]) / total
