"""The averaged weights that are exported instead of the last ones: torch's exponential moving average, by name."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """Follows trained weights; its decay grows to `decay`, so that the first steps do not outweigh the rest.

    torch's `AveragedModel` would copy the frozen weights too, which for SD 2.1 are nearly all.

    Args:
        weights: at the start, by name.
        decay: 0 keeps no average.
    """

    def __init__(self, weights: dict[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.weights = {name: value.detach().clone() for name, value in weights.items()} if decay else {}

    def resume(self, weights: dict[str, Tensor]) -> None:
        """Go on from the average of an earlier run."""
        self.weights = weights if self.decay else {}

    def to(self, device: torch.device) -> None:
        self.weights = {name: value.to(device) for name, value in self.weights.items()}

    def update(self, step: int, trained: dict[str, Tensor]) -> None:
        """Take in the weights after a step; `trained` may hold others too."""
        if self.weights:
            follow = get_ema_multi_avg_fn(min(self.decay, (step + 1) / (step + 10)))
            follow(list(self.weights.values()), [trained[name] for name in self.weights], None)
