"""LoRA for small models: the update is added to the weight before each step, instead of a second convolution.

W + alpha / rank * up @ down costs one small matrix product for each layer, whatever the size of the picture; where
layers are narrow, peft's second path through every layer costs more than the layers themselves. The update
itself, and its form in files (`LoraLayer`), are the same.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..errors import InputError
from .lora import LoraLayer, target_layers


class LowRankUpdate(nn.Module):
    """A parametrization of a weight; starts as no update."""

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        inputs = weight[0].numel()
        self.down = nn.Parameter(torch.randn(rank, inputs) * (0.5 / math.sqrt(inputs)))
        self.up = nn.Parameter(torch.zeros(weight.shape[0], rank))
        self.alpha = alpha

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.alpha / self.down.shape[0]) * (self.up @ self.down).view_as(weight)

    def load(self, layer: LoraLayer) -> None:
        """Go on with an update of the same rank, whatever its alpha."""
        with torch.no_grad():
            self.down.copy_(layer.down.flatten(1))
            self.up.copy_(layer.up.flatten(1) * (layer.alpha / self.alpha))

    def layer(self, weight: Tensor) -> LoraLayer:
        """The update as files have it, a copy on the CPU; `weight` gives the shape."""
        down, up = self.down.detach().cpu().clone(), self.up.detach().cpu().clone()
        if weight.ndim == 4:
            down, up = down.view(-1, *weight.shape[1:]), up[..., None, None]
        return LoraLayer(down, up, self.alpha)


def add_merged_lora(model: nn.Module, rank: int, start: dict[str, LoraLayer] | None = None) -> None:
    """Freeze a model and give every target layer a trainable update of the scale 1 (alpha = rank).

    Args:
        model: has the target layers.
        rank: of the updates.
        start: updates to go on with; layers that are not in it start as no update.

    Raises:
        InputError: an update of another rank.
    """
    start = start or {}
    others = sorted({layer.down.shape[0] for layer in start.values()} - {rank})
    if others:
        raise InputError(f"expected that of the LoRA to go on with, {others[0]}, but got {rank}", field="rank")
    model.requires_grad_(False)
    for name in target_layers(model):
        module = model.get_submodule(name)
        weight = module.weight
        assert isinstance(weight, Tensor)
        update = LowRankUpdate(weight, rank, float(rank))
        if name in start:
            update.load(start[name])
        parametrize.register_parametrization(module, "weight", update)


def extract_merged_lora(model: nn.Module) -> dict[str, LoraLayer]:
    """Read the updates back: layer name -> update."""
    found = {}
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            (update,) = module.parametrizations["weight"]
            weight = module.weight
            assert isinstance(update, LowRankUpdate)
            assert isinstance(weight, Tensor)
            found[name] = update.layer(weight)
    return found
