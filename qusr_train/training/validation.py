"""Validation while training: whole pictures restored as `restore` does it, their figures, and the best checkpoints."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.pairs import load_captions
from ..errors import InputError
from ..evaluation.evaluate import METRICS, check_metrics, evaluate_folders
from ..files import write_whole
from ..images.find import match_folders
from ..images.read import read_rgb
from ..images.write import write_png
from ..restore import Restored, RestoresPhotos
from ..restore_sd21 import SD21Restorer
from .config import TrainConfig
from .tracking import MAX_SAMPLES, Tracking, read_metrics, sample_sheet

log = logging.getLogger(__name__)


class Validation:
    """The pairs of `config.validate`, and what validating on them gave so far.

    Args:
        config: settings.
        first: the step the run starts at: later lines of an earlier try are dropped.

    Raises:
        InputError: no pairs, or an unknown metric.
    """

    def __init__(self, config: TrainConfig, first: int) -> None:
        folder = Path(config.validate)
        for part in ("lr", "hr"):
            if not (folder / part).is_dir():
                raise InputError(f"expected the folders lr and hr in it, but {part} is missing", "validate", folder)
        self.config, self.out = config, Path(config.out)
        self.metrics = tuple(dict.fromkeys(["psnr", "ssim", *config.validate_metrics.split()]))
        check_metrics(self.metrics)
        if config.best not in self.metrics:
            raise InputError(f"expected one of {', '.join(self.metrics)}, but got {config.best}", "best")
        self.pairs = sorted(match_folders(folder / "lr", folder / "hr").items())
        self.prompts: dict[str, str] = {}
        if config.prompts == "files":
            self.prompts = load_captions(folder, [stem for stem, _ in self.pairs])
        elif config.prompts == "empty":
            self.prompts = dict.fromkeys((stem for stem, _ in self.pairs), "")
        self.record = self.out / f"{config.stage}.validation.jsonl"
        self.lines = [line for line in read_metrics(self.record) if line["step"] <= first]

    def restore(self, restorer: RestoresPhotos, rank: int, count: int) -> list[tuple[Restored, Tensor]]:
        """Restore this process's share of the pictures into OUT/validation; the first few with their targets."""
        shown: list[tuple[Restored, Tensor]] = []
        for number, (stem, (low, high)) in enumerate(self.pairs):
            if number % count != rank:
                continue
            image, target = read_rgb(low)[None], read_rgb(high)[None]
            one = restorer
            if image.shape == target.shape and isinstance(restorer, SD21Restorer):
                one = dataclasses.replace(restorer, scale=1.0)
            result = one(image, prompt=self.prompts.get(stem), seed=0)
            write_png(self.out / "validation" / f"{stem}.png", result.image[0], compress_level=1)
            if len(shown) < MAX_SAMPLES:
                shown.append((result, target))
        return shown

    def judge(self, step: int, shown: list[tuple[Restored, Tensor]], tracking: Tracking) -> bool:
        """Compare the restored pictures with their targets; logs figures and a sheet.

        Returns:
            Whether this is one of the `keep` best so far.
        """
        figures = evaluate_folders(self.out / "validation", Path(self.config.validate) / "hr", self.metrics).mean
        better = METRICS[self.config.best].higher_is_better
        self.lines.append({"step": step, **{name: round(value, 5) for name, value in figures.items()}})
        with write_whole(self.record) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in self.lines), encoding="utf-8")
        tracking.log(step, {f"validation_{name}": value for name, value in figures.items()})
        tracking.sample(step, _sheet(shown), "validation")
        log.info("step %d: %s", step, ", ".join(f"{name} {value:.4f}" for name, value in figures.items()))
        order = sorted(self.lines, key=lambda line: line[self.config.best], reverse=better)
        return step in [line["step"] for line in order[: self.config.keep]]

    def best(self) -> dict[str, Any]:
        """The line with the best figure; empty before there is one."""
        if not self.lines:
            return {}
        choose = max if METRICS[self.config.best].higher_is_better else min
        return choose(self.lines, key=lambda line: line[self.config.best])

    def path(self, step: int) -> Path:
        """Where a kept checkpoint lies."""
        return self.out / "best" / f"{self.config.stage}-{step:07d}.safetensors"

    def forget_worse(self) -> None:
        """Remove kept checkpoints that are no longer among the best."""
        better = METRICS[self.config.best].higher_is_better
        order = sorted(self.lines, key=lambda line: line[self.config.best], reverse=better)
        kept = {self.path(line["step"]) for line in order[: self.config.keep]}
        for path in (self.out / "best").glob(f"{self.config.stage}-*.safetensors"):
            if path not in kept:
                path.unlink()


def _sheet(shown: list[tuple[Restored, Tensor]]) -> Tensor:
    """Input, result, target and map of the same pictures every time, cut to one size around their middle."""
    height, width = (min(target.shape[side] for _, target in shown) for side in (-2, -1))

    def cut(x: Tensor) -> Tensor:
        y, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
        side = min(height, width)
        return F.interpolate(x[:, :, y : y + height, left : left + width][:, :, :side, :side], size=(side, side))

    x_lq, x_hq, x_gt = (torch.cat([cut(pictures[i]) for pictures in _pictures(shown)]) * 2 - 1 for i in range(3))
    maps = [cut(result.uncertainty) for result, _ in shown if result.uncertainty is not None]
    return sample_sheet(x_lq, x_hq, x_gt, torch.cat(maps) if len(maps) == len(shown) else None)


def _pictures(shown: list[tuple[Restored, Tensor]]) -> list[tuple[Tensor, Tensor, Tensor]]:
    return [(result.bicubic, result.image, target) for result, target in shown]
