"""The layers of diffusers' AutoencoderKL, for the exact tiles."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .vae_layers import Attention, Coder, Layer, Level, Residual, VAELayers


def diffusers_layers(vae: Any) -> VAELayers:
    """An `AutoencoderKL` of diffusers as the exact tiles read it."""

    def entry(latent: Tensor) -> Tensor:
        return vae.decoder.conv_in(vae.post_quant_conv(latent))

    encoder = _coder(vae.encoder, vae.encoder.conv_in, vae.encoder.down_blocks)
    return VAELayers(encoder, vae.quant_conv, _coder(vae.decoder, entry, vae.decoder.up_blocks))


def _coder(coder: Any, entry: Layer, blocks: Any) -> Coder:
    first, second = (_residual(block) for block in coder.mid_block.resnets)
    middle = first, _attention(coder.mid_block.attentions[0]), second
    return Coder(entry, tuple(_level(block) for block in blocks), middle, coder.conv_norm_out, coder.conv_out)


def _level(block: Any) -> Level:
    resizes = getattr(block, "downsamplers", None) or getattr(block, "upsamplers", None)
    return Level(tuple(_residual(one) for one in block.resnets), resizes[0] if resizes else None)


def _residual(block: Any) -> Residual:
    return Residual(block.norm1, block.conv1, block.norm2, block.conv2, block.conv_shortcut)


def _attention(block: Any) -> Attention:
    layers = (_at_each_position(layer) for layer in (block.to_q, block.to_k, block.to_v, block.to_out[0]))
    return Attention(block.group_norm, *layers)


def _at_each_position(linear: Layer) -> Layer:
    """A linear layer over the channels of (1, C, h, w)."""
    return lambda window: linear(window.movedim(1, -1)).movedim(-1, 1)
