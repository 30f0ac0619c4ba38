"""Random choices, all from one generator, so that a sample is the same in every process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")


class Choices:
    """What degradations and prompts draw."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=self.generator).item()

    def chance(self, share: float) -> bool:
        return torch.rand((), generator=self.generator).item() < share

    def below(self, count: int) -> int:
        """0 to count - 1."""
        return int(torch.randint(count, (), generator=self.generator).item())

    def one_of(self, items: Sequence[Item]) -> Item:
        return items[self.below(len(items))]

    def shuffled(self, items: Sequence[Item]) -> list[Item]:
        return [items[i] for i in torch.randperm(len(items), generator=self.generator).tolist()]

    def pick(self, shares: tuple[float, ...]) -> int:
        """An index, with these probabilities."""
        return int(torch.multinomial(torch.tensor(shares), 1, generator=self.generator).item())

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def poisson(self, rate: Tensor) -> Tensor:
        return torch.poisson(rate, generator=self.generator)
