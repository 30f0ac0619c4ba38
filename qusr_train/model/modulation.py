"""LQ-guided feature modulation (CODSR, arXiv 2512.14061): the photo itself steers the UNet's first features.

The VAE's latent has lost detail that the photo still has. So the photo's pixels, folded 8 x 8 into channels, are turned
into a scale and a shift for the features behind the UNet's first convolution: h -> h (1 + scale) + shift.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

FOLD = 8  # image pixels per latent pixel, in x and in y
FOLDED_CHANNELS = 3 * FOLD * FOLD


class FeatureModulation(nn.Module):
    """Two pairs of 3 x 3 convolutions with SiLU between. Key names follow the authors' file.

    Args:
        channels: of the UNet's first features, 320 in Stable Diffusion.
        operations: namespace that provides `Conv2d` (`torch.nn` or a `comfy.ops` class).
    """

    def __init__(self, channels: int = 320, operations: Any = nn) -> None:
        super().__init__()
        self.channels = channels
        self.SFT_scale_conv0 = operations.Conv2d(FOLDED_CHANNELS, channels, 3, padding=1)
        self.SFT_scale_conv1 = operations.Conv2d(channels, channels, 3, padding=1)
        self.SFT_shift_conv0 = operations.Conv2d(FOLDED_CHANNELS, channels, 3, padding=1)
        self.SFT_shift_conv1 = operations.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x_lq: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift, before CODSR divides them by sqrt((1 - a) / a).

        Args:
            x_lq: (B, 3, H, W) in [-1, 1], both sides multiples of 8.

        Returns:
            Two tensors (B, channels, H / 8, W / 8).
        """
        folded = nn.functional.pixel_unshuffle(x_lq, FOLD)  # (B, 192, H / 8, W / 8)
        act = nn.functional.silu
        scale = self.SFT_scale_conv1(act(self.SFT_scale_conv0(folded)))
        shift = self.SFT_shift_conv1(act(self.SFT_shift_conv0(folded)))
        return scale, shift


def build_modulation(state: Mapping[str, Tensor]) -> FeatureModulation:
    """The module with these weights, in evaluation mode. Raises ValueError when they do not fit."""
    bias = state.get("SFT_scale_conv0.bias")
    if bias is None:
        raise ValueError("feature modulation: SFT_scale_conv0.bias is missing")
    module = FeatureModulation(bias.shape[0])
    try:
        module.load_state_dict(dict(state))
    except RuntimeError as error:
        raise ValueError(f"feature modulation: its weights do not fit ({error})") from error
    return module.eval().requires_grad_(False)


def modulate(features: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """h (1 + scale) + shift, all (B, C, h, w)."""
    return torch.addcmul(shift, features, scale + 1)
