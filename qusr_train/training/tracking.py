"""What a run leaves to look at: STAGE.metrics.jsonl, sample pictures, TensorBoard or Weights & Biases."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..files import write_whole
from ..images.heatmap import colorize, value_range
from ..images.write import to_picture, write_png
from ..packages import is_installed
from .config import TrainConfig

log = logging.getLogger(__name__)

SAMPLES = "samples"
MAX_SAMPLES = 4  # rows of a sample picture
MAX_SIDE = 384  # pixels of a shown patch


def choose_tracker(config: TrainConfig) -> str:
    """`tensorboard`, `wandb` or `none`; `auto` is TensorBoard if that is installed."""
    if config.tracker != "auto":
        return config.tracker
    if not is_installed("tensorboard"):
        log.info("tensorboard is not installed: curves go to %s only", metrics_file(Path(config.out), config.stage))
        return "none"
    return "tensorboard"


def sample_sheet(x_lq: Tensor, x_hq: Tensor, x_gt: Tensor, u: Tensor | None) -> Tensor:
    """Rows of input, result, target and uncertainty map: (3, H, W) in [0, 1].

    Args:
        x_lq, x_hq, x_gt: (B, 3, H, W) in [-1, 1].
        u: (B, 3, H, W), the raw map.
    """
    columns = [(x.detach().float().cpu()[:MAX_SAMPLES] + 1) / 2 for x in (x_lq, x_hq, x_gt)]
    if u is not None:
        values = u.detach().float().cpu()[:MAX_SAMPLES].abs().mean(1)
        low, high = value_range(values, "auto", 0.0, 1.0)
        columns.append(colorize((values - low) / (high - low), "turbo"))
    if columns[0].shape[-1] > MAX_SIDE:
        columns = [F.interpolate(c, size=(MAX_SIDE, MAX_SIDE), mode="area") for c in columns]
    rows = torch.cat(columns, dim=3)  # (B, 3, H, 4 W)
    return torch.cat(list(rows), dim=1).clamp(0, 1)


class Tracking:
    """Writes what a run shows; only the main process has one.

    Args:
        accelerator: accelerate's.
        config: settings.
        first: the step the run starts at: later lines of an earlier try are dropped.
    """

    def __init__(self, accelerator: Any, config: TrainConfig, first: int) -> None:
        self.accelerator, self.config = accelerator, config
        self.out = Path(config.out)
        self.kind = choose_tracker(config)
        self.path = metrics_file(self.out, config.stage)
        if self.path.is_file():
            lines = [line for line in read_metrics(self.path) if line["step"] <= first]
            with write_whole(self.path) as temporary:
                temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        if self.kind != "none":
            items = dataclasses.asdict(config).items()
            settings = {k: v if isinstance(v, (int, float, str)) else str(v) for k, v in items}
            (self.out / "logs").mkdir(parents=True, exist_ok=True)
            places = {"wandb": {"dir": str(self.out / "logs"), "name": self.out.name}}  # not the current folder
            accelerator.init_trackers(config.stage, config=settings, init_kwargs=places)

    def log(self, step: int, figures: dict[str, float]) -> None:
        """One line and one point for each figure."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **figures}) + "\n")
        if self.kind != "none":
            self.accelerator.log(figures, step=step)

    def sample(self, step: int, sheet: Tensor, name: str = SAMPLES) -> None:
        """A picture of rows of input, result, target, map: (3, H, W) in [0, 1]; goes to OUT/samples."""
        stage = self.config.stage if name == SAMPLES else f"{self.config.stage}-{name}"
        write_png(self.out / SAMPLES / f"{stage}-{step:07d}.png", sheet)
        if self.kind == "tensorboard":
            writer = self.accelerator.get_tracker("tensorboard", unwrap=True)
            writer.add_image(f"{name}: input, result, target, uncertainty", sheet.clamp(0, 1), step)
        elif self.kind == "wandb":
            self.accelerator.get_tracker("wandb").log_images({name: [to_picture(sheet)]}, step=step)


def stop_file(out: Path, stage: str) -> Path:
    """A file whose appearance asks the command `train` to save and stop: the same on every system."""
    return out / f"{stage}.stop"


def metrics_file(out: Path, stage: str) -> Path:
    """Where a run writes its curves, one JSON object on each line."""
    return out / f"{stage}.metrics.jsonl"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; what is not ours, or was cut off by a kill, is left out."""
    lines = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            figures = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(figures, dict) and type(figures.get("step")) is int:
            lines.append({name: value for name, value in figures.items() if type(value) in (int, float)})
    return lines
