"""Uncertainty maps as pictures: colormaps, overlay, legend."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from .write import to_picture

# 17 evenly spaced colours each; between them linear interpolation (at most 7 grey levels off the originals).
COLOR_STOPS = {
    "viridis": "440154 48186a 472d7b 424086 3b528b 33638d 2c728e 26828e 21918c 1fa088 28ae80 3fbc73 5ec962 84d44b "
    "addc30 d8e219 fde725",
    "turbo": "30123b 4040a2 466be3 4294ff 28bceb 18ddc2 32f298 6dfe62 a4fc3c cdec34 eecf3a fdac34 fb7e21 eb500e "
    "d02f05 a91601 7a0403",
    "magma": "000004 0a0822 1d1147 36106b 51127c 6a1c81 832681 9c2e7f b73779 d0416f e75263 f56b5c fc8961 fea772 "
    "fec488 fde2a3 fcfdbf",
    "grey": "000000 ffffff",
}
COLORMAPS = tuple(COLOR_STOPS)


def colorize(values: Tensor, colormap: str) -> Tensor:
    """Map values to colours.

    Args:
        values: (B, H, W), clamped to [0, 1].
        colormap: viridis, turbo, magma or grey.

    Returns:
        (B, 3, H, W) in [0, 1].
    """
    if colormap not in COLOR_STOPS:
        raise ValueError(f"colormap must be one of {', '.join(COLORMAPS)}, but got {colormap!r}")
    table = torch.tensor([[int(c[i : i + 2], 16) for i in (0, 2, 4)] for c in COLOR_STOPS[colormap].split()]) / 255.0
    fine = F.interpolate(table.T[None], size=256, mode="linear", align_corners=True)[0].T  # (256, 3)
    index = (values.clamp(0, 1) * 255.0).round().long()
    return fine.to(values.device)[index].movedim(-1, 1)


def value_range(values: Tensor, mode: str, low: float = 0.0, high: float = 1.0) -> tuple[float, float]:
    """The values at both ends of the colour scale.

    Args:
        values: any shape.
        mode: `auto` (0 to the maximum), `percentile` (1 % to 99 %) or `fixed` (low to high).
    """
    if mode == "fixed":
        if not low < high:
            raise ValueError(f"range_max must be above range_min, but got {low:g} and {high:g}")
        return low, high
    flat = values.flatten()
    if mode == "percentile":
        sample = flat[:: max(1, flat.numel() // 1_000_000)]
        low, high = torch.quantile(sample, torch.tensor([0.01, 0.99], device=flat.device)).tolist()
    elif mode == "auto":
        low, high = 0.0, float(flat.max())
    else:
        raise ValueError(f"range must be auto, percentile or fixed, but got {mode!r}")
    return low, high if high > low else low + 1e-6


def add_legend(image: Tensor, colormap: str, low: float, high: float, title: str = "uncertainty |U|") -> Tensor:
    """Append a strip with the colour scale and its values below each image.

    Args:
        image: (B, 3, H, W) in [0, 1].

    Returns:
        (B, 3, H + strip, W); strips are a sixteenth of the height, between 28 and 96 pixels.
    """
    _, _, height, width = image.shape
    strip = min(96, max(28, height // 16))
    canvas = Image.new("RGB", (width, strip), (24, 24, 24))
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=max(9, round(strip * 0.36)))
    pixels = to_picture(colorize(torch.linspace(0, 1, max(2, width))[None, None], colormap)[0])
    bar = max(4, round(strip * 0.42))
    canvas.paste(pixels.resize((width, bar)), (0, 0))
    margin = max(2, strip // 8)
    middle = (strip + bar) // 2
    draw.text((margin, middle), f"{low:.3g}", font=font, fill="white", anchor="lm")
    draw.text((width - margin, middle), f"{high:.3g}", font=font, fill="white", anchor="rm")
    center = f"{title}, middle {(low + high) / 2:.3g}"
    if draw.textlength(center, font=font) < width * 0.6:
        draw.text((width // 2, middle), center, font=font, fill="white", anchor="mm")
    drawn = torch.from_numpy(np.asarray(canvas, dtype=np.float32) / 255.0).permute(2, 0, 1)
    return torch.cat([image, drawn.expand(image.shape[0], -1, -1, -1).to(image)], dim=2)
