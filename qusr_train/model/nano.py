"""qusr-nano: QUSR in miniature, the bundled default.

The same structure as the full model, small enough for a CPU: a UNet with cross-attention to the
quality prompt, a small CLIP text encoder, a UEM, adaptive noise and one residual step. Its
"VAE" is a lossless pixel unshuffle, so that the predicted residual is the residual to bicubic
enlargement, and an untrained model returns exactly the bicubic image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .error_map import ErrorUEM
from .precision import fast_products
from .uncertainty import UEM

# Limits of what a file may claim, far above any model that is called nano.
MOST = {
    "shuffle": 16,
    "blocks": 64,
    "heads": 64,
    "text_dim": 1024,
    "text_layers": 32,
    "uem_channels": 1024,
    "film": 1024,
}
MOST_LEVELS, MOST_CHANNELS = 8, 4096


@dataclass(frozen=True)
class NanoConfig:
    """Shape of a nano model; stored in its file's metadata."""

    shuffle: int = 4
    """Side of the pixel block that becomes channels: latents are 3 * shuffle^2 channels at 1/shuffle size."""
    channels: tuple[int, ...] = (48, 80, 128)
    """Width of each UNet level."""
    blocks: int = 2
    """Residual blocks per level, going down and going up."""
    heads: int = 4
    """Attention heads of the cross-attention to the prompt."""
    text_dim: int = 64
    """Width of the text encoder and of the conditioning."""
    text_layers: int = 2
    """Layers of the text encoder."""
    uem: Literal["paper", "error"] = "paper"
    """The UEM: the paper's layout (`uncertainty.UEM`), or the one whose map is an expected error (`ErrorUEM`)."""
    uem_channels: int = 8
    """Hidden channels of the UEM."""
    film: int = 0
    """Width of the prompt vector that scales and shifts every residual block; 0: only the attention reads it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))
        for name, most in MOST.items():
            value, least = getattr(self, name), 0 if name == "film" else 1
            if type(value) is not int or value > most:
                raise ValueError(f"nano config: {name} must be a whole number up to {most}, but got {value!r:.50}")
            if value < least:
                raise ValueError(f"nano config: {name} must be at least {least}, but got {value}")
        widths = all(type(width) is int and 0 < width <= MOST_CHANNELS for width in self.channels)
        if len(self.channels) > MOST_LEVELS or not widths:
            raise ValueError(
                f"nano config: channels must be positive, up to {MOST_LEVELS} whole numbers to {MOST_CHANNELS}, but "
                f"got {self.channels!r:.100}"
            )
        if self.uem not in ("paper", "error"):
            raise ValueError(f"nano config: uem must be paper or error, but got {self.uem!r}")
        if not self.channels or self.channels[-1] % self.heads:
            raise ValueError(
                f"nano config: channels must be positive and the last divisible by heads={self.heads}, "
                f"but got {self.channels}"
            )

        if self.text_dim % max(1, self.text_dim // 32):
            raise ValueError(f"nano config: text_dim must divide into heads of about 32, but got {self.text_dim}")

    @property
    def latent_channels(self) -> int:
        return 3 * self.shuffle**2

    def build_uem(self) -> UEM | ErrorUEM:
        """The uncertainty module of this shape, untrained."""
        return ErrorUEM(self.uem_channels) if self.uem == "error" else UEM(self.uem_channels)


class PromptVector(nn.Module):
    """One vector for each prompt: a weighted mean of its tokens, through a small perceptron."""

    def __init__(self, context_dim: int, width: int, operations: Any) -> None:
        super().__init__()
        self.weigh = operations.Linear(context_dim, 1)
        self.proj_in = operations.Linear(context_dim, width)

    def forward(self, context: Tensor) -> Tensor:
        """(B, N, context_dim) -> (B, width)."""
        weights = self.weigh(context).softmax(1)  # (B, N, 1)
        return F.silu(self.proj_in((weights * context).sum(1)))


class ResidualBlock(nn.Module):
    """x + conv(silu(film(conv(silu(x))))), without normalisation; starts as the identity."""

    def __init__(self, channels: int, operations: Any, film: int = 0) -> None:
        super().__init__()
        self.conv1 = operations.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = operations.Conv2d(channels, channels, 3, padding=1)
        self.film = operations.Linear(film, 2 * channels) if film else None

    def forward(self, x: Tensor, prompt: Tensor | None = None) -> Tensor:
        h = self.conv1(F.silu(x))
        if self.film is not None:
            scale, shift = self.film(prompt)[..., None, None].chunk(2, 1)
            h = torch.addcmul(shift, h, 1 + scale)
        h = F.silu(h, inplace=not torch.is_grad_enabled())
        return self.conv2(h).add_(x)


class Blocks(nn.ModuleList):
    """Residual blocks in sequence."""

    def forward(self, x: Tensor, prompt: Tensor | None = None) -> Tensor:
        for block in self:
            x = block(x, prompt)
        return x


class CrossAttention(nn.Module):
    """Every latent position reads the prompt's tokens; starts as the identity."""

    def __init__(self, channels: int, context_dim: int, heads: int, operations: Any) -> None:
        super().__init__()
        self.heads = heads
        self.norm = operations.LayerNorm(channels)
        self.to_q = operations.Linear(channels, channels, bias=False)
        self.to_k = operations.Linear(context_dim, channels, bias=False)
        self.to_v = operations.Linear(context_dim, channels, bias=False)
        self.to_out = nn.ModuleList([operations.Linear(channels, channels)])

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        c, h, w = x.shape[1:]
        tokens = x.flatten(2).transpose(1, 2)  # (B, h*w, C)

        def split(t: Tensor) -> Tensor:
            return t.unflatten(-1, (self.heads, c // self.heads)).transpose(1, 2)  # (B, heads, N, C/heads)

        q, k, v = split(self.to_q(self.norm(tokens))), split(self.to_k(context)), split(self.to_v(context))
        read = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # (B, h*w, C)
        return x + self.to_out[0](read).transpose(1, 2).unflatten(2, (h, w))


class Resampler(nn.Module):
    """The convolution between two levels, under the name Stable Diffusion gives it."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class NanoUNet(nn.Module):
    """Residual predictor eps_theta(z_g, C).

    Args:
        config: the shape.
        operations: namespace with `Conv2d`, `Linear`, `LayerNorm` (`torch.nn` or a `comfy.ops` class).
        device, dtype: where ComfyUI wants the weights; `dtype` is also read by its BaseModel.
    """

    def __init__(
        self,
        config: NanoConfig,
        operations: Any = nn,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.config = config
        self.dtype = dtype
        widths = config.channels
        self.conv_in = operations.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList()
        self.downsamplers = nn.ModuleList()
        self.up_blocks = nn.ModuleList()
        self.upsamplers = nn.ModuleList()
        for level, width in enumerate(widths[:-1]):
            wider = widths[level + 1]
            self.down_blocks.append(Blocks(ResidualBlock(width, operations, config.film) for _ in range(config.blocks)))
            self.downsamplers.append(Resampler(operations.Conv2d(width, wider, 3, stride=2, padding=1)))
            self.upsamplers.append(Resampler(operations.Conv2d(wider, 4 * width, 1)))
            self.up_blocks.append(Blocks(ResidualBlock(width, operations, config.film) for _ in range(config.blocks)))
        self.mid_in = ResidualBlock(widths[-1], operations, config.film)
        self.mid_attention = CrossAttention(widths[-1], config.text_dim, config.heads, operations)
        self.mid_out = ResidualBlock(widths[-1], operations, config.film)
        self.prompt_vector = PromptVector(config.text_dim, config.film, operations) if config.film else None
        self.conv_out = operations.Conv2d(widths[0], config.latent_channels, 3, padding=1)
        self.to(device=device, dtype=dtype)

    @property
    def receptive_radius(self) -> int:
        """Latent pixels to each side that a pixel of the result depends on, rounded up to a multiple of the levels'.

        Every operation but the prompt's is a convolution, so that tiles with this margin give the whole picture.
        """
        blocks, levels = self.config.blocks, len(self.config.channels)
        radius = 2  # conv_in and conv_out
        for level in range(levels - 1):
            radius += 2**level * (2 * 2 * blocks + 1)  # two ways, two convolutions a block, one to the next level
        radius += 2 ** (levels - 1) * 4  # two blocks in the middle
        return -(-radius // 2 ** (levels - 1)) * 2 ** (levels - 1)

    def start_as_identity(self) -> None:
        """Zero the last layer of every branch and of the model: eps = 0, the result is bicubic."""
        last: list[nn.Module] = [self.conv_out]
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                last.append(module.conv2)
            elif isinstance(module, CrossAttention):
                last.append(module.to_out[0])
        for layer in last:
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)
        self.film_as_identity()

    def film_as_identity(self) -> None:
        """Zero what the prompt does to the blocks."""
        for layer in self._film_layers():
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def _film_layers(self) -> list[nn.Module]:
        return [m.film for m in self.modules() if isinstance(m, ResidualBlock) and m.film is not None]

    def forward(self, z_g: Tensor, timesteps: Tensor | None = None, context: Tensor | None = None, **_: Any) -> Tensor:
        """Predict the residual.

        Args:
            z_g: (B, 3 * shuffle^2, h, w), any h and w of at least 1.
            timesteps: ignored, the model has one step (t = 1).
            context: (B, 77, text_dim), the encoded quality prompt.

        Returns:
            eps: like z_g.
        """
        if context is None:
            raise ValueError("context: qusr-nano needs an encoded quality prompt, but got none")
        if context.shape[-1] != self.config.text_dim:
            raise ValueError(
                f"context: qusr-nano expects conditioning of width {self.config.text_dim}, but got "
                f"{context.shape[-1]}: encode the prompt with qusr-nano's own CLIP"
            )
        height, width = z_g.shape[-2:]
        multiple = 2 ** (len(self.config.channels) - 1)
        z = z_g
        if width % multiple or height % multiple:
            z = F.pad(z_g, (0, -width % multiple, 0, -height % multiple), mode="replicate")
        with fast_products(z):
            eps = self._predict(z, context)
        return eps[..., :height, :width].to(z.dtype)

    def _predict(self, z: Tensor, context: Tensor) -> Tensor:
        prompt = None if self.prompt_vector is None else self.prompt_vector(context)
        x = self.conv_in(z)
        skips = []
        for blocks, down in zip(self.down_blocks, self.downsamplers, strict=True):
            x = blocks(x, prompt)
            skips.append(x)
            x = down(x)
        x = self.mid_out(self.mid_attention(self.mid_in(x, prompt), context), prompt)
        for blocks, up in zip(reversed(self.up_blocks), reversed(self.upsamplers), strict=True):
            x = blocks(F.pixel_shuffle(up(x), 2).add_(skips.pop()), prompt)
        return self.conv_out(x)


class PixelUnshuffleVAE(nn.Module):
    """nano's lossless stand-in for a VAE, with the methods that ComfyUI's VAE wrapper calls.

    A latent channel is colour-major: channel c * s^2 + i * s + j holds pixel (i, j) of colour c.
    """

    def __init__(self, shuffle: int = 4) -> None:
        super().__init__()
        self.shuffle = shuffle

    def encode(self, x: Tensor, **_: Any) -> Tensor:
        """(B, 3, H, W) -> (B, 3 s^2, H/s, W/s). Raises ValueError unless H and W are multiples of s."""
        if x.shape[-1] % self.shuffle or x.shape[-2] % self.shuffle:
            raise ValueError(
                f"image: width and height must be multiples of {self.shuffle}, but got {x.shape[-1]} x {x.shape[-2]}"
            )
        return F.pixel_unshuffle(x, self.shuffle)

    def decode(self, z: Tensor, **_: Any) -> Tensor:
        """(B, 3 s^2, h, w) -> (B, 3, h s, w s)."""
        return F.pixel_shuffle(z, self.shuffle)
