"""The uncertainty estimation module (UEM) of QUSR (arXiv 2603.09125, section 3.2)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..images.tiling import exact_tiles

RECEPTIVE_RADIUS = 6  # six 3x3 convolutions: an output pixel sees 6 pixels to each side


class UEM(nn.Module):
    """Six 3x3 convolutions (3 "encoder" + 3 "decoder") with ELU between, none after the last.

    Layout, initialisation and key names follow the reference implementation, whose UEM has
    64 hidden channels.

    Args:
        hidden_channels: width of the hidden layers.
        operations: namespace that provides `Conv2d` (`torch.nn` or a `comfy.ops` class).
    """

    receptive_radius = RECEPTIVE_RADIUS

    def __init__(self, hidden_channels: int = 64, operations: Any = nn) -> None:
        super().__init__()
        if hidden_channels < 1:
            raise ValueError(f"hidden_channels must be at least 1, but got {hidden_channels}")
        self.hidden_channels = hidden_channels

        def conv(c_in: int, c_out: int) -> nn.Module:
            layer = operations.Conv2d(c_in, c_out, 3, padding=1)
            nn.init.xavier_uniform_(layer.weight)
            nn.init.constant_(layer.bias, 0.01)
            return layer

        c = hidden_channels
        self.encoder = nn.Sequential(conv(3, c), nn.ELU(), conv(c, c), nn.ELU(), conv(c, c), nn.ELU())
        self.decoder = nn.Sequential(conv(c, c), nn.ELU(), conv(c, c), nn.ELU(), conv(c, 3))

    def forward(self, x_lq: Tensor) -> Tensor:
        """Raw uncertainty map.

        Args:
            x_lq: (B, 3, H, W) in [-1, 1], the input image at the output's size.

        Returns:
            U: (B, 3, H, W), unbounded.
        """
        return self.decoder(self.encoder(x_lq))


def estimate_uncertainty(uem: nn.Module, x_lq: Tensor, tile: int = 1024) -> Tensor:
    """Run a UEM with bounded memory: tiles with a margin of the receptive field.

    The result equals `uem(x_lq)` (up to float rounding), because every output pixel still sees
    all the input pixels it depends on, and zero padding happens at the true image border only.

    Args:
        uem: maps (B, 3, H, W) to (B, 3, H, W), a pixel depending on `receptive_radius` pixels to each side.
        x_lq: (B, 3, H, W) in [-1, 1].
        tile: side of a tile in pixels, without its margin; a multiple of 4 for an `ErrorUEM`.

    Returns:
        U: (B, 3, H, W).
    """
    radius = getattr(uem, "receptive_radius", RECEPTIVE_RADIUS)
    # One channel at a time where the three are equal: a large map takes a third of the memory.
    one = getattr(uem, "one_channel", uem)
    return exact_tiles(x_lq, lambda window, _: one(window), tile, radius).expand(-1, 3, -1, -1)


def deviation_uncertainty(x_lq: Tensor, window: int = 9) -> Tensor:
    """Model-free stand-in for a UEM: how much the values around a pixel differ, their standard deviation.

    Args:
        x_lq: (B, 3, H, W) in [-1, 1].
        window: side of the window in pixels (odd).

    Returns:
        U: (B, 3, H, W), 0 to 1: 0 on flat areas, about 0.5 to 1 on strong edges.
    """
    mean = _local_mean(x_lq, window)
    return (_local_mean(x_lq.square(), window) - mean.square()).clamp(min=0).sqrt()


def residual_uncertainty(x_lq: Tensor, restored: Tensor, window: int = 9) -> Tensor:
    """What a fast restoration changes: where it had to add, the truth is unsure.

    The idea is UPSR's (arXiv 2503.18512), which takes the difference between the enlarged input and the output of a
    super-resolution network as its estimate; here it is averaged over a window.

    Args:
        x_lq: (B, 3, H, W) in [-1, 1], the enlarged input.
        restored: likewise, the restoration.
        window: side of the averaging window in pixels (odd).

    Returns:
        U: (B, 3, H, W), at least 0, in [-1, 1] units.
    """
    return _local_mean((restored - x_lq).abs(), window)


def _local_mean(x: Tensor, window: int) -> Tensor:
    """Mean over a window around each pixel, replicated borders."""
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window must be a positive odd number, but got {window}")
    pad = window // 2
    return nn.functional.avg_pool2d(nn.functional.pad(x, (pad, pad, pad, pad), mode="replicate"), window, stride=1)


def gradient_uncertainty(x_lq: Tensor, window: int = 9) -> Tensor:
    """Model-free stand-in for a UEM: local gradient energy, where super-resolution has to guess.

    Args:
        x_lq: (B, 3, H, W) in [-1, 1].
        window: side of the averaging window in pixels (odd).

    Returns:
        U: (B, 3, H, W), at least 0; about 0 on flat areas and 1 to 3 on strong edges.
    """
    padded = nn.functional.pad(x_lq, (1, 1, 1, 1), mode="replicate")
    dx = (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]).abs()
    dy = (padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]).abs()
    return _local_mean(dx + dy, window) * 4.0
