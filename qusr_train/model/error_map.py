"""A UEM whose map has a unit: the absolute error that the restored picture is expected to have.

QUSR's own UEM (`uncertainty.py`) sees six pixels and is trained by equation 8, whose map has no unit. This one looks
at structure instead (contrast, slopes and fine detail, each at several scales) and is trained by the likelihood of a
Laplace distribution, |e| / U + ln U, whose minimum is U = the mean of |e|.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BLOCK = 4  # pixels of the enlarged picture per pixel of the small one: no detail lies between
DILATIONS = (1, 2, 4, 2, 1)
LOG_LIMITS = (-8.0, 1.0)  # of ln U in [-1, 1] units: from 0.04 grey levels to all of them
GREY_LEVELS = 127.5  # of one unit of [-1, 1]


def _mean(x: Tensor, window: int) -> Tensor:
    """Mean over a window around each pixel, replicated borders."""
    pad = window // 2
    return F.avg_pool2d(F.pad(x, (pad, pad, pad, pad), mode="replicate"), window, stride=1)


def _log(x: Tensor) -> Tensor:
    """Logarithm of a contrast (0 to about 1), scaled to about -1 to 2."""
    return 0.5 * torch.log(x + 1e-3) + 2.0


def structure(x_lq: Tensor) -> Tensor:
    """What the module looks at; brightness itself is left out, since errors hardly depend on it.

    Args:
        x_lq: (B, 3, H, W) in [-1, 1], H and W multiples of 4.

    Returns:
        (B, 8, H / 4, W / 4): detail in three colours, slopes at three scales, contrast at two.
    """
    luma = (x_lq * x_lq.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    dx = F.pad(luma, (0, 1, 0, 0), mode="replicate").diff(dim=-1).abs()
    dy = F.pad(luma, (0, 0, 0, 1), mode="replicate").diff(dim=-2).abs()
    slope = F.avg_pool2d(dx + dy, BLOCK)
    small = F.avg_pool2d(x_lq, BLOCK)
    detail = small - _mean(small, 5)
    energy = _mean(detail.square().mean(1, keepdim=True), 5)
    return torch.cat(
        [
            4.0 * detail,
            _log(slope), _log(_mean(slope, 3)), _log(_mean(slope, 9)),
            _log(energy.sqrt()), _log(_mean(energy, 5).sqrt()),
        ],
        dim=1,
    )  # fmt: skip


class ErrorUEM(nn.Module):
    """Expected absolute error of each pixel, from the structure around it.

    Args:
        hidden_channels: width of the hidden layers.
        operations: namespace that provides `Conv2d` (`torch.nn` or a `comfy.ops` class).
    """

    receptive_radius = 80
    """Pixels to each side that a pixel of the map depends on; a multiple of `BLOCK`."""

    def __init__(self, hidden_channels: int = 32, operations: Any = nn) -> None:
        super().__init__()
        if hidden_channels < 1:
            raise ValueError(f"hidden_channels must be at least 1, but got {hidden_channels}")
        self.hidden_channels = hidden_channels
        c = hidden_channels
        self.conv_in = operations.Conv2d(8, c, 3, padding=1)
        self.blocks = nn.ModuleList(operations.Conv2d(c, c, 3, padding=d, dilation=d) for d in DILATIONS)
        self.conv_out = operations.Conv2d(c, 1, 3, padding=1)

    def start_even(self, error: float = 0.06) -> None:
        """Let an untrained module expect the same error everywhere, in [-1, 1] units."""
        nn.init.zeros_(self.conv_out.weight)
        nn.init.constant_(self.conv_out.bias, float(torch.tensor(error).log()))

    def forward(self, x_lq: Tensor) -> Tensor:
        """The map U.

        Args:
            x_lq: (B, 3, H, W) in [-1, 1], the input image at the output's size.

        Returns:
            U: (B, 3, H, W), three equal channels, above 0: expected absolute error (mean of the colours) in [-1, 1]
            units. Times `GREY_LEVELS` it is in grey levels.
        """
        return self.one_channel(x_lq).expand(-1, 3, -1, -1)

    def one_channel(self, x_lq: Tensor) -> Tensor:
        """The same as (B, 1, H, W)."""
        height, width = x_lq.shape[-2:]
        x = F.pad(x_lq, (0, -width % BLOCK, 0, -height % BLOCK), mode="replicate")
        h = F.silu(self.conv_in(structure(x)))
        for conv in self.blocks:
            h = F.silu(conv(h), inplace=not torch.is_grad_enabled()).add_(h)
        # Enlarged as a logarithm: smooth, above 0 and without a grid of blocks.
        log_error = F.interpolate(self.conv_out(h).float(), scale_factor=BLOCK, mode="bilinear", align_corners=False)
        return log_error.clamp_(*LOG_LIMITS).exp_()[..., :height, :width]
