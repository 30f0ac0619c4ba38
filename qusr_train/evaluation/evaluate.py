"""Figures of folders: PSNR and SSIM on Y as the paper's tables compute them, others by pyiqa, uncertainty maps."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..files import write_whole
from ..images.find import match_folders
from ..images.map_file import find_maps
from .judge import Pair, Settings, choose_processes, judge_all
from .perceptual import PYIQA_METRICS, Metric, MissingWeights, create
from .reliability import Reliability
from .uncertainty import MapFigures

log = logging.getLogger(__name__)

PICTURE_METRICS: dict[str, Metric] = {"psnr": Metric(True, True), "ssim": Metric(True, True), **PYIQA_METRICS}
MAP_METRICS: dict[str, Metric] = {f.name: Metric(f.name == "aurg", True) for f in dataclasses.fields(MapFigures)}
"""Figures of uncertainty maps, see `uncertainty.MapFigures`; all of them are given when there are maps."""
METRICS: dict[str, Metric] = {**PICTURE_METRICS, **MAP_METRICS}
DEFAULT_METRICS = ("psnr", "ssim")


@dataclass(frozen=True)
class Report:
    """Figures of one folder of predictions."""

    per_image: dict[str, dict[str, float]]
    """Image name -> metric -> value; FID has no value for an image."""
    mean: dict[str, float]
    """Metric -> mean over the images, or the value of the set."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Metric -> why it could not be computed (weights that are absent)."""

    def as_json(self) -> dict[str, Any]:
        """As it stands in a JSON file; `skipped` only where something was."""
        content = dataclasses.asdict(self)
        return content if self.skipped else {key: content[key] for key in ("per_image", "mean")}


def check_metrics(metrics: tuple[str, ...]) -> None:
    """Raise InputError unless all names are known and there is one."""
    if not metrics:
        raise InputError(f"give at least one of {', '.join(PICTURE_METRICS)}", field="metrics")
    for metric in metrics:
        if metric in MAP_METRICS:
            raise InputError(f"{metric} is a figure of maps; give the maps, and it is reported", field="metrics")
        if metric not in PICTURE_METRICS:
            raise InputError(f"unknown metric {metric!r}; known: {', '.join(PICTURE_METRICS)}", field="metrics")


def evaluate_folders(
    predictions: str | os.PathLike[str],
    truths: str | os.PathLike[str],
    metrics: tuple[str, ...] = DEFAULT_METRICS,
    *,
    device: str = "cpu",
    download: bool = False,
    niqe: Path | None = None,
    maps: str | os.PathLike[str] | None = None,
    processes: int = 1,
    each: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Compare two folders of images, matched by stem.

    Args:
        predictions, truths: searched recursively.
        metrics: names from `PICTURE_METRICS`.
        maps: folder with the uncertainty maps of the predictions (see `images.map_file`), searched recursively.
        device, download, niqe: for pyiqa's metrics, see `perceptual.create`.
        processes: over which the pictures are spread; 0 takes what suits the cores. The figures are the same. With
            more than one the caller's main module has to be importable (`if __name__ == "__main__"`).
        each: called after every picture with how many are done, and how many there are.

    Returns:
        The figures. FID has a value for the set only; the mean of `ence` is the calibration error over the pixels of
        all pictures together, not the mean of theirs.

    Raises:
        InputError: unknown metric, no common names, or a pair of different sizes.
    """
    check_metrics(metrics)
    pairs = {
        stem: Pair(prediction, truth)
        for stem, (prediction, truth) in match_folders(Path(predictions), Path(truths)).items()
    }
    if maps is not None:
        pairs = _with_maps(pairs, Path(maps))
    settings = Settings(metrics, device, download, niqe)
    skipped = {metric: why for metric in metrics if (why := _why_not(metric, settings))}
    for metric, why in skipped.items():
        log.warning("%s skipped: %s", metric, why)
    used = tuple(metric for metric in metrics if metric not in skipped)
    single = tuple(metric for metric in used if not METRICS[metric].folders)
    count = processes or choose_processes(len(pairs), device)
    per_image: dict[str, dict[str, float]] = {}
    together = Reliability()
    judged = judge_all(dataclasses.replace(settings, metrics=single), pairs.values(), count)
    with closing(judged):
        for stem, figures in zip(pairs, judged, strict=True):
            per_image[stem] = figures.scores
            if figures.reliability is not None:
                together.merge(figures.reliability)
            each(len(per_image), len(pairs))
    mean = {m: float(np.mean([values[m] for values in per_image.values()])) for m in single}
    for metric in used:
        if METRICS[metric].folders:
            of_set = create(metric, device, download, niqe)
            mean[metric] = float(of_set(str(predictions), str(truths), num_workers=0, verbose=False))
    means = {m: mean[m] for m in used}
    if maps is not None:
        with_map = [per_image[stem] for stem, pair in pairs.items() if pair.map]
        means |= {m: float(np.mean([values[m] for values in with_map])) for m in MAP_METRICS}
        means["ence"] = together.ence()
    return Report(per_image, means, skipped)


def _why_not(metric: str, settings: Settings) -> str:
    """What is missing for a metric; empty for nothing."""
    if metric in PYIQA_METRICS:
        try:
            create(metric, settings.device, settings.download, settings.niqe)
        except MissingWeights as error:
            return str(error)
    return ""


def _with_maps(pairs: dict[str, Pair], folder: Path) -> dict[str, Pair]:
    """The pairs with their maps, where there are any."""
    found = find_maps(folder)
    used = pairs.keys() & found.keys()
    if not used:
        raise InputError("no map has the name of a prediction", "maps", folder)
    if len(used) < len(pairs):
        log.warning("%s: %d of %d predictions have no map", folder, len(pairs) - len(used), len(pairs))
    return {stem: dataclasses.replace(pair, map=found.get(stem)) for stem, pair in pairs.items()}


def write_json(path: Path, report: Report | Mapping[str, Report]) -> None:
    """Write one report, or several by method, whole or not at all."""
    if isinstance(report, Report):
        content = report.as_json()
    else:
        content = {"methods": {name: one.as_json() for name, one in report.items()}}
    with write_whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")
