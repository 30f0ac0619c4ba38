"""LPIPS as a training loss (Zhang et al. 2018, by the `lpips` package)."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError

VGG16 = "vgg16-397923af.pth"
"""torchvision's ImageNet weights, under the name torch's hub gives them."""


class PerceptualLoss(nn.Module):
    """LPIPS with VGG16, frozen.

    The package carries the trained weights of the five comparisons; the backbone's are torchvision's.

    Args:
        backbone: file with torchvision's vgg16 weights; None takes random ones, which tests do.
    """

    def __init__(self, backbone: Path | None) -> None:
        super().__init__()
        import lpips

        self.network = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
        if backbone is not None:
            _load_backbone(self.network.net, backbone)
        self.requires_grad_(False).eval()

    def forward(self, x_hq: Tensor, x_gt: Tensor) -> Tensor:
        """Mean distance of two (B, 3, H, W) in [-1, 1]."""
        return self.network(x_hq, x_gt).float().mean()


def find_backbone(given: str) -> Path:
    """The vgg16 weights: the given file, or torch's hub cache.

    Raises:
        ValueError: they are in neither place; the message names what is missing and what to do.
    """
    path = Path(given) if given else Path(torch.hub.get_dir()) / "checkpoints" / VGG16
    if not path.is_file():
        raise InputError(
            f"{path} not found. LPIPS needs torchvision's {VGG16}: download it on any machine with "
            "torchvision.models.vgg16(weights='IMAGENET1K_V1') and give the file, or train without: `lpips_weight` 0",
            field="lpips_backbone",
        )
    return path


def _load_backbone(network: Any, path: Path) -> None:
    """Copy torchvision's `features.N.weight|bias` into lpips' slices, whose layers keep the number N."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise InputError(f"damaged or not a weight file ({error})", field="lpips_backbone", value=path) from error
    wanted = network.state_dict()
    found = {}
    for key in wanted:
        _, number, kind = key.split(".")  # slice2.5.weight
        value = state.get(f"features.{number}.{kind}") if isinstance(state, dict) else None
        if not isinstance(value, Tensor) or value.shape != wanted[key].shape:
            raise InputError(f"not torchvision's vgg16 (features.{number}.{kind})", field="lpips_backbone", value=path)
        found[key] = value
    network.load_state_dict(found)
