"""Random choices of a sample, all from one generator, so that it is the same in every process."""

from __future__ import annotations

import torch
from torch import Tensor


class Choices:
    """Draws in the order in which they are asked for."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=self.generator).item()

    def chance(self, share: float) -> bool:
        return torch.rand((), generator=self.generator).item() < share

    def below(self, count: int) -> int:
        """One of 0 ... count - 1, each as likely."""
        return int(torch.randint(count, (), generator=self.generator).item())

    def pick(self, shares: tuple[float, ...]) -> int:
        """An index, with these probabilities."""
        return int(torch.multinomial(torch.tensor(shares), 1, generator=self.generator).item())

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def poisson(self, rate: Tensor) -> Tensor:
        return torch.poisson(rate, generator=self.generator)
