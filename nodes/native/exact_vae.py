"""The layers of ComfyUI's AutoencoderKL, for the exact tiles."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...qusr_train.model.vae_layers import Attention, Coder, Layer, Level, Residual, VAELayers


def native_layers(model: Any) -> VAELayers:
    """An `AutoencoderKL` of comfy.ldm as the exact tiles read it."""

    def entry(latent: Tensor) -> Tensor:
        return model.decoder.conv_in(model.post_quant_conv(latent))

    encoder = _coder(model.encoder, model.encoder.conv_in, model.encoder.down)
    decoder = _coder(model.decoder, entry, reversed(model.decoder.up))
    return VAELayers(encoder, model.quant_conv, decoder)


def _coder(coder: Any, entry: Layer, levels: Any) -> Coder:
    middle = _residual(coder.mid.block_1), _attention(coder.mid.attn_1), _residual(coder.mid.block_2)
    return Coder(entry, tuple(_level(level) for level in levels), middle, coder.norm_out, coder.conv_out)


def _level(level: Any) -> Level:
    resize = getattr(level, "downsample", None) or getattr(level, "upsample", None)
    return Level(tuple(_residual(block) for block in level.block), resize)


def _residual(block: Any) -> Residual:
    shortcut, halo = None, 0
    if block.in_channels != block.out_channels:
        halo = int(block.use_conv_shortcut)
        shortcut = block.conv_shortcut if halo else block.nin_shortcut
    return Residual(block.norm1, block.conv1, block.norm2, block.conv2, shortcut, halo)


def _attention(block: Any) -> Attention:
    return Attention(block.norm, block.q, block.k, block.v, block.proj_out)
