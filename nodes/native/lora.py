"""LoRA updates as patches of a native ModelPatcher."""

from __future__ import annotations

import comfy.lora
import torch

from ...qusr_train.model.lora import LoraLayer
from .comfy_types import Patches


def lora_patches(lora: dict[str, LoraLayer], keys: dict[str, str]) -> Patches:
    """What `ModelPatcher.add_patches` takes.

    Args:
        lora: layer name -> update.
        keys: layer name -> the model's weight it belongs to.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, layer in lora.items():
        tensors[f"{name}.lora_down.weight"] = layer.down
        tensors[f"{name}.lora_up.weight"] = layer.up
        tensors[f"{name}.alpha"] = torch.tensor(layer.alpha)
    return comfy.lora.load_lora(tensors, {name: keys[name] for name in lora})


class SwitchedLora:
    """A LoRA update that is added when a weight is used, and only while its switch is on.

    Two passes with different LoRA need no second copy of the weights that way.
    """

    def __init__(self, layer: LoraLayer, switch: dict[str, bool]) -> None:
        self.down = layer.down.flatten(1)
        self.up = layer.up.flatten(1) * (layer.alpha / layer.down.shape[0])
        self.switch = switch

    def move_to(self, device: torch.device) -> int:
        """ComfyUI calls this when it loads the model; returns the memory taken in bytes."""
        self.down, self.up = self.down.to(device), self.up.to(device)
        return self.down.nbytes + self.up.nbytes

    def __call__(self, weight: torch.Tensor) -> torch.Tensor:
        if not self.switch["on"]:
            return weight
        self.move_to(weight.device)
        delta = self.up.float() @ self.down.float()
        return weight + delta.view(weight.shape).to(weight.dtype)
