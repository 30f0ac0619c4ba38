"""What a weight file must be before anything is built from it: no lies about sizes, no NaN, no other kind of file."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ..model.lora import LoraLayer


def as_weight(name: str, value: Tensor) -> Tensor:
    """A stored weight in float32. Raises ValueError: integers, NaN or infinite values; names the tensor."""
    if not value.is_floating_point():
        kind = str(value.dtype).removeprefix("torch.")
        raise ValueError(f"{name}: expected floating-point weights, but got {kind}")
    weight = value.detach().float()
    if not torch.isfinite(weight).all():
        raise ValueError(f"{name}: has NaN or infinite values")
    return weight


def check_fit(what: str, state: Mapping[str, Tensor], build: Callable[[], nn.Module]) -> dict[str, torch.Size]:
    """Compare a file's tensors with the module they are for, before the module takes any memory.

    Args:
        what: part of the model, for messages.
        state: the file's tensors.
        build: makes the module, here without memory.

    Returns:
        The module's shapes by name.

    Raises:
        ValueError: names the first tensor that is missing, too many, or of another shape.
    """
    with torch.device("meta"):
        wanted = {name: value.shape for name, value in build().state_dict().items()}
    for name in sorted(wanted.keys() | state.keys()):
        if name not in state:
            raise ValueError(f"{what}: tensor {name} is missing")
        if name not in wanted:
            raise ValueError(f"{what}: tensor {name} does not belong to it")
        if state[name].shape != wanted[name]:
            raise ValueError(
                f"{what}: tensor {name} should be {tuple(wanted[name])} by its own description, but is "
                f"{tuple(state[name].shape)}"
            )
    return wanted


def check_lora(what: str, lora: Mapping[str, LoraLayer], weights: Mapping[str, torch.Size] | None = None) -> None:
    """Both matrices of each layer fit together, and the layer's weight where it is known. Raises ValueError."""
    for name, layer in lora.items():
        rank, up_rank = (layer.down.shape[:1], layer.up.shape[1:2])
        if not rank or rank != up_rank or not rank[0] or layer.up[0:1, 0:1].numel() != 1:
            raise ValueError(
                f"{what} layer {name}: up {tuple(layer.up.shape)} and down {tuple(layer.down.shape)} differ in rank"
            )
        shape = (layer.up.shape[0], *layer.down.shape[1:])
        if weights is not None and weights.get(f"{name}.weight") != torch.Size(shape):
            found = weights.get(f"{name}.weight")
            there = "there is no such layer" if found is None else f"the layer is {tuple(found)}"
            raise ValueError(f"{what} layer {name}: is for a weight of {shape}, but {there}")
