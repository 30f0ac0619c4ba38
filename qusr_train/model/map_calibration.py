"""What the values of an uncertainty map mean: expected absolute error in grey levels, and which pixels to trust.

Stored in a model's file; `evaluation.calibration` measures it on pairs of photos.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from .error_map import GREY_LEVELS

UNIT: Literal["grey levels"] = "grey levels"
DEFAULT_ERROR = 8.0
"""Grey levels that an error may have on trusted pixels, where a user does not say: hardly seen in a photo."""


@dataclass(frozen=True)
class TrustLevel:
    """Below which value of the map a pixel can be trusted, measured by conformal risk control."""

    error: float
    """The promise: the error of a trusted pixel is at most this, in grey levels ..."""
    confidence: float
    """... for this share of the trusted pixels of a picture, on average over pictures."""
    threshold: float
    """Pixels whose calibrated map is below this many grey levels are trusted; 0: none, the promise cannot be kept."""
    share: float = 0.0
    """Share of pixels that were trusted on the pairs of the calibration."""

    def __post_init__(self) -> None:
        if not (self.error > 0 and 0 < self.confidence < 1 and 0 <= self.threshold < math.inf):
            raise ValueError(f"trust level: expected error > 0, confidence in (0, 1), threshold >= 0, but got {self}")


@dataclass(frozen=True)
class MapCalibration:
    """Turns a raw map U into grey levels, and says which pixels to trust."""

    curve: tuple[tuple[float, float], ...]
    """Points (|U|, expected error in grey levels), both rising; straight lines between them."""
    trust: tuple[TrustLevel, ...] = ()
    """By rising error; empty: not measured."""
    calibrated_on: str = ""
    """Which pairs, how many and when; empty: not measured, the unit is what the module was trained for."""
    unit: Literal["grey levels"] = UNIT

    def __post_init__(self) -> None:
        points = tuple((float(u), float(error)) for u, error in self.curve)
        trust = tuple(t if isinstance(t, TrustLevel) else TrustLevel(**t) for t in self.trust)
        object.__setattr__(self, "curve", points)
        object.__setattr__(self, "trust", tuple(sorted(trust, key=lambda t: t.error)))
        rising = all(a[0] < b[0] and a[1] <= b[1] for a, b in pairwise(points))
        good = all(math.isfinite(value) and value >= 0 for point in points for value in point)
        if len(points) < 2 or not rising or not good or points[-1][0] <= 0:
            raise ValueError(f"map curve: expected two or more rising points of finite values >= 0, but got {points}")
        if self.unit != UNIT:
            raise ValueError(f"map unit: expected {UNIT!r}, but got {self.unit!r}")

    def grey_levels(self, u: Tensor) -> Tensor:
        """Expected absolute error of each pixel.

        Below the first point of the curve it is the first point's error, above the last it grows in proportion.

        Args:
            u: (B, C, H, W), the raw map.

        Returns:
            (B, H, W), float32, at least 0, in grey levels.
        """
        return self.of_magnitude(u.float().abs().mean(1))

    def of_magnitude(self, magnitude: Tensor) -> Tensor:
        """The same for |U|, averaged over the channels, of any shape."""
        magnitude = magnitude.float()
        # One clamped rise for each line of the curve: half the time of looking the line up for each pixel.
        result = torch.full_like(magnitude, self.curve[0][1])
        for (x0, y0), (x1, y1) in pairwise(self.curve):
            result.add_((magnitude - x0).clamp_(0, x1 - x0), alpha=(y1 - y0) / (x1 - x0))
        x, y = self.curve[-1]
        return result.add_((magnitude - x).clamp_(min=0), alpha=y / x)

    def trust_for(self, error: float) -> TrustLevel | None:
        """The measured level that promises an error of at most `error`; None if the smallest one promises more."""
        fitting = [level for level in self.trust if level.error <= error]
        return fitting[-1] if fitting else None

    def to_json(self) -> str:
        """For a file's metadata."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> MapCalibration:
        """Raises TypeError or ValueError for anything that `to_json` did not write."""
        return cls(**json.loads(text))


AS_TRAINED = MapCalibration(((0.0, 0.0), (1.0, GREY_LEVELS)))
"""Of an `ErrorUEM` that was not calibrated: its loss makes U the expected error in [-1, 1] units."""
