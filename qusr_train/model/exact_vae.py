"""Stable Diffusion's VAE by tiles, equal to the whole image up to float rounding.

Blended tiles normalise every tile by its own statistics, which shifts colours from tile to tile.
Here every layer runs over all tiles before the next one starts: GroupNorm then uses the statistics
of the whole image, convolutions see the true pixels around a tile, and attention sees all positions.
The feature maps wait in host memory: about 0.5 KB per image pixel and byte of the data type
(at 2048 x 2048 in bfloat16 4.3 GB). Device memory holds one tile, and for the attention keys and
values of at most 2^16 positions (2048 x 2048 image pixels); of larger images they come in parts.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from .feature_map import FeatureMap
from .vae_layers import Attention, Coder, Layer, Residual, VAELayers

RESIDENT_POSITIONS = 2**16  # keys and values on the device; more come from the host part by part
STREAMED_AT_ONCE = 2**14  # positions
ATTENTION_SCORES = 2**26  # query-key pairs at once, so that attention without a fused kernel fits too


def streamed_attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(C)) v in one pass over keys and values that wait on the host.

    Running maximum and sum as in Milakov and Gimelshein 2018, in float32.

    Args:
        queries: (1, 1, N, C) on the compute device.
        keys, values: (1, 1, M, C), anywhere.

    Returns:
        (1, 1, N, C), like `queries`.
    """
    count, channels = queries.shape[-2:]
    best = torch.full((1, 1, count, 1), float("-inf"), device=queries.device)
    total = torch.zeros_like(best)
    weighted = torch.zeros(queries.shape, device=queries.device)
    at_once = max(1, ATTENTION_SCORES // 4 // STREAMED_AT_ONCE)
    for k, v in zip(keys.split(STREAMED_AT_ONCE, 2), values.split(STREAMED_AT_ONCE, 2), strict=True):
        k, v = k.to(queries.device).float(), v.to(queries.device).float()
        for start in range(0, count, at_once):
            rows = slice(start, start + at_once)
            scores = queries[:, :, rows].float() @ k.mT * channels**-0.5
            top = torch.maximum(best[:, :, rows], scores.amax(-1, keepdim=True))
            scores = scores.sub_(top).exp_()
            kept = (best[:, :, rows] - top).exp()
            total[:, :, rows] = total[:, :, rows] * kept + scores.sum(-1, keepdim=True)
            weighted[:, :, rows] = weighted[:, :, rows] * kept + scores @ v
            best[:, :, rows] = top
    return (weighted / total).to(queries.dtype)


class ExactVAE:
    """Runs the encoder and decoder of Stable Diffusion's VAE layer by layer over tiles.

    Args:
        layers: of a VAE on its compute device.
        tile: side of a tile in image pixels, a multiple of 8.
        device, dtype: of the computation.
        each: called after every tile (progress, interrupt).
    """

    def __init__(
        self,
        layers: VAELayers,
        tile: int,
        device: torch.device,
        dtype: torch.dtype,
        each: Callable[[], None] = lambda: None,
    ) -> None:
        self.layers, self.tile, self.device, self.dtype, self.each = layers, tile, device, dtype, each

    def moments(self, pixels: Tensor) -> Tensor:
        """Posterior of an image: mean and log-variance, stacked.

        Args:
            pixels: (1, 3, H, W) in [-1, 1], H and W multiples of 8.

        Returns:
            (1, 8, H / 8, W / 8), on the host.
        """
        encoder, tile = self.layers.encoder, self.tile
        h = self._sweep(pixels, encoder.entry, tile, halo=1)
        for level in encoder.levels:
            for block in level.blocks:
                h = self._block(block, h, tile)
            if level.resize is not None:
                tile //= 2
                h = self._sweep(h.data, level.resize, tile, halo=0, up=1, down=2)
        h = self._middle(encoder, h, tile)
        h = self._out(encoder, h, tile)
        return self._sweep(h.data, self.layers.quant_conv, tile).data

    def decode(self, latent: Tensor) -> Tensor:
        """(1, 4, h, w), unscaled -> image (1, 3, 8 h, 8 w), about [-1, 1], on the host."""
        decoder = self.layers.decoder
        tile = max(8, self.tile // 2 ** (len(decoder.levels) - 1))
        h = self._sweep(latent, decoder.entry, tile, halo=1)
        h = self._middle(decoder, h, tile)
        for level in decoder.levels:
            for block in level.blocks:
                h = self._block(block, h, tile)
            if level.resize is not None:
                tile *= 2
                h = self._sweep(h.data, level.resize, tile, halo=1, up=2)
        return self._out(decoder, h, tile).data

    def _sweep(
        self,
        source: Tensor,
        layer: Layer,
        tile: int,
        halo: int = 0,
        up: int = 1,
        down: int = 1,
        onto: Tensor | None = None,
    ) -> FeatureMap:
        """Apply a layer to every tile of a map.

        Args:
            source: (1, C, H, W).
            layer: what is done to a window of it.
            tile: side of a tile in pixels of the result.
            halo: rows and columns of the source that the layer looks at beyond a tile.
            up, down: result size = source size * up / down.
            onto: map of the result's size that is added, and overwritten by the sum.
        """
        height, width = source.shape[-2] * up // down, source.shape[-1] * up // down
        result: FeatureMap | None = None if onto is None else FeatureMap(onto)
        for y in range(0, height, tile):
            for x in range(0, width, tile):
                y1, x1 = min(y + tile, height), min(x + tile, width)
                ya, xa = max(y * down // up - halo, 0), max(x * down // up - halo, 0)
                # A layer with stride 2 and 3 taps reads one row more than twice its result's.
                yb, xb = -(-y1 * down // up) + halo + down - 1, -(-x1 * down // up) + halo + down - 1
                part = layer(source[:, :, ya:yb, xa:xb].to(self.device, self.dtype))
                top, left = y - ya * up // down, x - xa * up // down
                part = part[:, :, top : top + y1 - y, left : left + x1 - x]
                if onto is not None:
                    part = part + onto[:, :, y:y1, x:x1].to(part)
                if result is None:
                    result = FeatureMap(torch.empty((1, part.shape[1], height, width), dtype=part.dtype))
                result.write(y, x, part)
                self.each()
        assert result is not None
        return result

    def _block(self, block: Residual, x: FeatureMap, tile: int) -> FeatureMap:
        """A residual block. Uses up its input."""
        first, skip = x.normalizer(block.norm1), x.data
        h = self._sweep(x.data, lambda w: block.conv1(F.silu(first(w), inplace=True)), tile, halo=1)
        if block.shortcut is not None:
            skip = self._sweep(x.data, block.shortcut, tile, halo=block.shortcut_halo).data
        x.data = skip  # the input is not needed any more
        second = h.normalizer(block.norm2)
        return self._sweep(h.data, lambda w: block.conv2(F.silu(second(w), inplace=True)), tile, halo=1, onto=skip)

    def _middle(self, coder: Coder, h: FeatureMap, tile: int) -> FeatureMap:
        first, attention, second = coder.middle
        h = self._block(first, h, tile)
        h = self._attention(attention, h, tile)
        return self._block(second, h, tile)

    def _attention(self, block: Attention, x: FeatureMap, tile: int) -> FeatureMap:
        norm = x.normalizer(block.norm)
        positions = x.data.shape[-2] * x.data.shape[-1]
        resident = positions <= RESIDENT_POSITIONS

        def project(layer: Layer) -> Tensor:
            projected = self._sweep(x.data, lambda w: layer(norm(w)), tile).data
            projected = projected.to(self.device) if resident else projected
            return projected.flatten(2).transpose(1, 2)[:, None].contiguous()  # (1, 1, H W, C)

        keys, values = project(block.k), project(block.v)
        chunk = max(1, ATTENTION_SCORES // positions)

        def attend(window: Tensor) -> Tensor:
            q = block.q(norm(window))
            queries = q.flatten(2).transpose(1, 2)[:, None]
            if resident:
                parts = [F.scaled_dot_product_attention(part, keys, values) for part in queries.split(chunk, dim=2)]
                read = torch.cat(parts, 2)
            else:
                read = streamed_attention(queries, keys, values)
            return block.out(read[:, 0].transpose(1, 2).reshape(q.shape))

        return self._sweep(x.data, attend, tile, onto=x.data)

    def _out(self, coder: Coder, h: FeatureMap, tile: int) -> FeatureMap:
        norm = h.normalizer(coder.norm_out)
        return self._sweep(h.data, lambda w: coder.conv_out(F.silu(norm(w), inplace=True)), tile, halo=1)
