"""Two data sets as one."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import Dataset


class Mixed(Dataset[Any]):
    """Sample i comes from the second data set with a probability, decided by the seed and i alone.

    Args:
        first, second: of the same length, with the same kind of sample.
        share: of the second, 0 to 1.
        seed: the run's.
    """

    def __init__(self, first: Dataset[Any], second: Dataset[Any], share: float, seed: int) -> None:
        self.first, self.second, self.share, self.seed = first, second, share, seed

    def __len__(self) -> int:
        return len(self.first)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        draw = torch.rand((), generator=torch.Generator().manual_seed(self.seed * 15_485_863 + index)).item()
        return self.second[index] if draw < self.share else self.first[index]
