"""What tiles are judged on: a smooth gradient and text, where an eye finds a seam at once."""

from __future__ import annotations

import torch
from PIL import Image, ImageDraw
from torch import Tensor

SIZE = 512


def gradient() -> Tensor:
    """A slow ramp in both directions, (1, 3, SIZE, SIZE) in [0, 1]."""
    ramp = torch.linspace(0, 1, SIZE)
    return (ramp[:, None] * 0.6 + ramp[None, :] * 0.3).expand(1, 3, SIZE, SIZE).contiguous()


def text() -> Tensor:
    """Lines of small black letters on white, likewise."""
    picture = Image.new("L", (SIZE, SIZE), "white")
    draw = ImageDraw.Draw(picture)
    for y in range(0, SIZE, 22):
        draw.text((4 + y % 37, y), "The quick brown fox jumps over the lazy dog 0123456789 and runs on " * 2, fill=0)
    values = torch.tensor(list(picture.getdata()), dtype=torch.float32).view(1, 1, SIZE, SIZE) / 255
    return values.expand(-1, 3, -1, -1).contiguous()


PICTURES = {"gradient": gradient, "text": text}
