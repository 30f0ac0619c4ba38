"""LoRA layout of QUSR: which layers, which adapter, which scale: the reference's peft set-up.

Three peft adapters share the model: encoder, decoder and others, each of rank 4 on every
convolution and linear layer whose name matches. peft's default `lora_alpha` is 8, so the
update is scaled by alpha / rank = 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InputError

TARGETS = (
    "to_k", "to_q", "to_v", "to_out.0",
    "conv", "conv1", "conv2", "conv_in", "conv_shortcut", "conv_out",
    "proj_out", "proj_in", "ff.net.2", "ff.net.0.proj",
)  # fmt: skip
DEFAULT_RANK = 4
DEFAULT_ALPHA = 8.0

Group = Literal["encoder", "decoder", "others"]


@dataclass(frozen=True)
class LoraLayer:
    """Low-rank update of one layer: W + alpha / rank * up @ down."""

    down: Tensor
    """(rank, in) for linear layers, (rank, in, kh, kw) for convolutions; peft's lora_A."""
    up: Tensor
    """(out, rank) or (out, rank, 1, 1); peft's lora_B."""
    alpha: float

    def delta(self) -> Tensor:
        """The update, in the shape of the layer's weight."""
        rank = self.down.shape[0]
        product = self.up.flatten(1).float() @ self.down.flatten(1).float()
        return (self.alpha / rank) * product.unflatten(1, self.down.shape[1:])


def group_of(name: str) -> Group:
    """The reference's adapter for a layer: down_blocks and conv_in; up_blocks and conv_out; the rest."""
    if "down_blocks" in name or ("downsamplers" in name and "up_blocks" not in name) or "conv_in" in name:
        return "encoder"
    if "up_blocks" in name or "upsamplers" in name or "conv_out" in name:
        return "decoder"
    return "others"


def target_layers(model: nn.Module) -> dict[str, Group]:
    """Names of the layers that get a LoRA, with their adapter, in the model's order."""
    result: dict[str, Group] = {}
    for name, module in model.named_modules():
        matches = any(name == target or name.endswith("." + target) for target in TARGETS)
        if matches and isinstance(module, (nn.Conv2d, nn.Linear)):
            result[name] = group_of(name)
    return result


def add_adapters(model: nn.Module, rank: int = DEFAULT_RANK, alpha: float = DEFAULT_ALPHA) -> None:
    """Put trainable peft adapters onto a model, one for each group, and freeze the rest.

    The new weights are found under `lora_A` / `lora_B` in `model.named_parameters()`.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    model.requires_grad_(False)
    layers = target_layers(model)
    groups: list[Group] = ["encoder", "decoder", "others"]
    used = [group for group in groups if group in layers.values()]
    for group in used:
        names = [name for name, g in layers.items() if g == group]
        config = LoraConfig(r=rank, lora_alpha=alpha, init_lora_weights="gaussian", target_modules=names)
        inject_adapter_in_model(config, model, adapter_name=f"default_{group}")
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.set_adapter([f"default_{group}" for group in used])


def extract_adapters(model: nn.Module, alpha: float = DEFAULT_ALPHA) -> dict[str, LoraLayer]:
    """Read the adapters back: layer name -> update (detached copies on the CPU)."""
    state = {name: value for name, value in model.state_dict().items() if ".lora_A." in name}
    whole = model.state_dict()
    result = {}
    for name, down in state.items():
        up = whole[name.replace(".lora_A.", ".lora_B.")]
        result[name.split(".lora_A.")[0]] = LoraLayer(down.detach().cpu(), up.detach().cpu(), alpha)
    return result


def load_adapters(model: nn.Module, lora: dict[str, LoraLayer], alpha: float = DEFAULT_ALPHA) -> None:
    """Give the adapters of `add_adapters` the weights of a file.

    Raises:
        ValueError: another set of layers, or other shapes.
    """
    state = {}
    for name, value in model.state_dict().items():
        layer, _, half = name.partition(".lora_")
        if not half:
            continue
        if layer not in lora:
            raise ValueError(f"there is no LoRA for the layer {layer} in it")
        given = lora[layer].down if half.startswith("A") else lora[layer].up * (lora[layer].alpha / alpha)
        if given.shape != value.shape:
            raise ValueError(f"LoRA layer {layer}: expected {tuple(value.shape)}, but got {tuple(given.shape)}")
        state[name] = given
    if len(state) != 2 * len(lora):
        raise ValueError("it has a LoRA for layers that are not fine-tuned here")
    model.load_state_dict(state, strict=False)


def merge(model: nn.Module, lora: dict[str, LoraLayer], strength: float = 1.0) -> None:
    """Add LoRA updates to a model's weights in place.

    Raises:
        ValueError: a layer is missing in the model or has another shape.
    """
    modules = dict(model.named_modules())
    updates: list[tuple[Tensor, Tensor]] = []
    for name, layer in lora.items():
        weight = getattr(modules.get(name), "weight", None)
        delta = layer.delta()
        if not isinstance(weight, Tensor) or weight.shape != delta.shape:
            found = "no such layer" if weight is None else f"a weight of shape {tuple(weight.shape)}"
            raise InputError(f"LoRA layer {name}: expected a weight of {tuple(delta.shape)}, but found {found}")
        updates.append((weight, delta))
    with torch.no_grad():
        for weight, delta in updates:  # only once all of them fit
            weight += strength * delta.to(weight)


@contextmanager
def added(model: nn.Module, lora: dict[str, LoraLayer]) -> Iterator[None]:
    """The LoRA acts inside the block only, beside the weights: no second copy of the model, nothing rounded."""
    modules = dict(model.named_modules())
    hooks = []
    for name, layer in lora.items():
        module = modules[name]
        weight = module.weight
        assert isinstance(weight, Tensor)
        down, up = layer.down.to(weight), layer.up.to(weight) * (layer.alpha / layer.down.shape[0])

        def add(
            module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, down: Tensor = down, up: Tensor = up
        ) -> Tensor:
            if isinstance(module, nn.Conv2d):
                low = F.conv2d(inputs[0], down, None, module.stride, module.padding)
                return output + F.conv2d(low, up)
            return output + F.linear(F.linear(inputs[0], down), up)

        hooks.append(module.register_forward_hook(add))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
