"""The curves of a training run as a picture; Pillow is all it needs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..errors import InputError

NOT_LOSSES = {"step", "learning_rate", "images_per_second"}
COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf")
MOST_PANELS, MOST = 32, 1e30
LEFT, TOP, RIGHT, BOTTOM = 64, 12, 12, 28  # margins of a panel in pixels


def smooth(values: list[float], share: float = 0.9) -> list[float]:
    """Exponential running mean, without the bias of its start."""
    result, mean, weight = [], 0.0, 0.0
    for value in values:
        mean, weight = share * mean + (1 - share) * value, share * weight + (1 - share)
        result.append(mean / weight)
    return result


def loss_plot(lines: list[dict[str, Any]], width: int = 768, panel: int = 180) -> Tensor:
    """One panel for each curve, over the steps: faint as measured, strong as running mean.

    Args:
        lines: of a metrics file (`tracking.read_metrics`).
        width: of the picture in pixels.
        panel: height of one panel.

    Returns:
        (3, H, width) in [0, 1].

    Raises:
        ValueError: there is nothing to plot yet.
    """
    names = [name for name in dict.fromkeys(key for line in lines for key in line) if name not in NOT_LOSSES][
        :MOST_PANELS
    ]
    if not names:
        raise InputError("there is nothing to plot yet: the run has logged no step")
    picture = Image.new("RGB", (width, panel * len(names)), "white")
    draw = ImageDraw.Draw(picture)
    for row, name in enumerate(names):
        points = [(line["step"], line[name]) for line in lines if abs(line.get(name, np.nan)) < MOST]
        if points:
            _panel(draw, name, points, (0, row * panel, width, (row + 1) * panel), COLORS[row % len(COLORS)])
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255.0


def _panel(
    draw: ImageDraw.ImageDraw, name: str, points: list[tuple[int, float]], box: tuple[int, int, int, int], color: str
) -> None:
    x0, y0, x1, y1 = box[0] + LEFT, box[1] + TOP, box[2] - RIGHT, box[3] - BOTTOM
    steps, values = [p[0] for p in points], [p[1] for p in points]
    low, high = min(values), max(values)
    high = high if high > low else low + 1e-6

    def place(step: int, value: float) -> tuple[float, float]:
        across = (step - steps[0]) / max(1, steps[-1] - steps[0])
        return x0 + across * (x1 - x0), y1 - (value - low) / (high - low) * (y1 - y0)

    draw.rectangle((x0, y0, x1, y1), outline="#999999")
    faint = tuple(int(255 - 0.35 * (255 - int(color[i : i + 2], 16))) for i in (1, 3, 5))
    for series, fill, thickness in ((values, faint, 1), (smooth(values), color, 2)):
        track = [place(step, value) for step, value in zip(steps, series, strict=True)]
        draw.line(track if len(track) > 1 else [track[0], track[0]], fill=fill, width=thickness)
    draw.text((x0 + 8, y0 + 4), f"{_shown(name)}: {smooth(values)[-1]:.4g}", fill=color)
    draw.text((box[0] + 4, y0 - 4), f"{high:.4g}", fill="black")
    draw.text((box[0] + 4, y1 - 8), f"{low:.4g}", fill="black")
    draw.text((x0, y1 + 6), f"step {steps[0]}", fill="black")
    draw.text((x1 - 70, y1 + 6), f"step {steps[-1]}", fill="black")


def _shown(name: str) -> str:
    """A curve's name as far as Pillow's font has it."""
    return name.encode("latin-1", "replace").decode("latin-1")[:60]
