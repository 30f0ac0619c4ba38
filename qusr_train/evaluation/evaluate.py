"""Figures of folders: PSNR and SSIM on Y as the paper's tables compute them, others by pyiqa, uncertainty maps."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..files import write_whole
from ..images.find import match_folders
from ..images.map_file import find_maps, read_map
from ..images.read import read_exact
from .fidelity import psnr, ssim
from .perceptual import PYIQA_METRICS, Metric, MissingWeights, create
from .reliability import Reliability
from .uncertainty import MapFigures, map_figures, pixel_error

log = logging.getLogger(__name__)

PICTURE_METRICS: dict[str, Metric] = {"psnr": Metric(True, True), "ssim": Metric(True, True), **PYIQA_METRICS}
MAP_METRICS: dict[str, Metric] = {f.name: Metric(f.name == "aurg", True) for f in dataclasses.fields(MapFigures)}
"""Figures of uncertainty maps, see `uncertainty.MapFigures`; all of them are given when there are maps."""
METRICS: dict[str, Metric] = {**PICTURE_METRICS, **MAP_METRICS}
DEFAULT_METRICS = ("psnr", "ssim")

_OWN = {"psnr": psnr, "ssim": ssim}


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
) -> Report:
    """Compare two folders of images, matched by stem.

    Args:
        predictions, truths: searched recursively.
        metrics: names from `PICTURE_METRICS`.
        maps: folder with the uncertainty maps of the predictions (see `images.map_file`), searched recursively.
        device, download, niqe: for pyiqa's metrics, see `perceptual.create`.

    Returns:
        The figures. FID has a value for the set only; the mean of `ence` is the calibration error over the pixels of
        all pictures together, not the mean of theirs.

    Raises:
        InputError: unknown metric, no common names, or a pair of different sizes.
    """
    check_metrics(metrics)
    pairs = match_folders(Path(predictions), Path(truths))
    calls: dict[str, Any] = dict(_OWN)
    skipped: dict[str, str] = {}
    for metric in metrics:
        if metric in PYIQA_METRICS:
            try:
                calls[metric] = create(metric, device, download, niqe)
            except MissingWeights as error:
                skipped[metric] = str(error)
                log.warning("%s skipped: %s", metric, error)
    used = [metric for metric in metrics if metric not in skipped]
    single = [metric for metric in used if not METRICS[metric].folders]
    per_image = {stem: _scores(*pair, single, calls) for stem, pair in pairs.items()}
    mean = {m: float(np.mean([values[m] for values in per_image.values()])) for m in single}
    for metric in used:
        if METRICS[metric].folders:
            mean[metric] = float(calls[metric](str(predictions), str(truths), num_workers=0, verbose=False))
    means = {m: mean[m] for m in used}
    if maps is not None:
        means |= _add_map_scores(per_image, Path(maps), pairs)
    return Report(per_image, means, skipped)


def _scores(prediction: Path, truth: Path, metrics: list[str], calls: dict[str, Any]) -> dict[str, float]:
    import torch

    a, b = read_exact(prediction), read_exact(truth)
    if a.shape != b.shape:
        raise InputError(
            f"{prediction.name}: prediction is {a.shape[1]} x {a.shape[0]}, "
            f"ground truth {b.shape[1]} x {b.shape[0]}; both must have the same size"
        )
    scores: dict[str, float] = {}
    for metric in metrics:
        if metric in _OWN:
            scores[metric] = calls[metric](a, b)
            continue
        x, y = (torch.from_numpy(image).float().movedim(-1, 0)[None] for image in (a, b))  # (1, 3, H, W)
        inputs = (x, y) if METRICS[metric].reads_truth else (x,)
        scores[metric] = float(calls[metric](*inputs))
    return scores


def _add_map_scores(
    per_image: dict[str, dict[str, float]], folder: Path, pairs: dict[str, tuple[Path, Path]]
) -> dict[str, float]:
    """Put the figures of each picture's map into `per_image`. Returns those of the whole set."""
    found = find_maps(folder)
    used = [stem for stem in pairs if stem in found]
    if not used:
        raise InputError("no map has the name of a prediction", "maps", folder)
    if len(used) < len(pairs):
        log.warning("%s: %d of %d predictions have no map", folder, len(pairs) - len(used), len(pairs))
    together = Reliability()
    for stem in used:
        prediction, truth = read_exact(pairs[stem][0]), read_exact(pairs[stem][1])
        uncertainty = read_map(found[stem], prediction.shape[:2])
        per_image[stem] |= dataclasses.asdict(map_figures(uncertainty, prediction, truth))
        together.add(uncertainty, pixel_error(prediction, truth))
    means = {m: float(np.mean([per_image[stem][m] for stem in used])) for m in MAP_METRICS}
    return {**means, "ence": together.ence()}


def write_json(path: Path, report: Report | Mapping[str, Report]) -> None:
    """Write one report, or several by method, whole or not at all."""
    if isinstance(report, Report):
        content = report.as_json()
    else:
        content = {"methods": {name: one.as_json() for name, one in report.items()}}
    with write_whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")
