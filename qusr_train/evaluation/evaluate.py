"""Image quality figures of folders: PSNR and SSIM on Y as the paper's tables compute them, the rest by pyiqa."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from ..files import write_whole
from ..images.find import match_folders
from ..images.read import read_exact
from .fidelity import psnr, ssim
from .perceptual import PYIQA_METRICS, Metric, MissingWeights, create

log = logging.getLogger(__name__)

METRICS: dict[str, Metric] = {"psnr": Metric(True, True), "ssim": Metric(True, True), **PYIQA_METRICS}
DEFAULT_METRICS = ("psnr", "ssim")

_OWN = {"psnr": psnr, "ssim": ssim}


def check_metrics(metrics: tuple[str, ...]) -> None:
    """Raise ValueError unless all names are known and there is one."""
    if not metrics:
        raise ValueError(f"--metrics: give at least one of {', '.join(METRICS)}")
    for metric in metrics:
        if metric not in METRICS:
            raise ValueError(f"--metrics: unknown metric {metric!r}; known: {', '.join(METRICS)}")


def evaluate_folders(
    predictions: Path,
    truths: Path,
    metrics: tuple[str, ...] = DEFAULT_METRICS,
    *,
    device: str = "cpu",
    download: bool = False,
    niqe: Path | None = None,
) -> dict[str, Any]:
    """Compare two folders of images, matched by stem.

    Args:
        predictions, truths: searched recursively.
        metrics: names from `METRICS`.
        device, download, niqe: for pyiqa's metrics, see `iqa.create`.

    Returns:
        {"per_image": {stem: {metric: value}}, "mean": {metric: value}}, and "skipped"
        {metric: reason} when weights are absent. FID has a value for the set only.

    Raises:
        ValueError: unknown metric, no common names, or a pair of different sizes.
    """
    check_metrics(metrics)
    pairs = match_folders(predictions, truths)
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
    report: dict[str, Any] = {"per_image": per_image, "mean": {m: mean[m] for m in used}}
    return {**report, "skipped": skipped} if skipped else report


def _scores(prediction: Path, truth: Path, metrics: list[str], calls: dict[str, Any]) -> dict[str, float]:
    import torch

    a, b = read_exact(prediction), read_exact(truth)
    if a.shape != b.shape:
        raise ValueError(
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


def write_json(path: Path, report: dict[str, Any]) -> None:
    """Write a report, whole or not at all."""
    with write_whole(path) as temporary:
        temporary.write_text(json.dumps(report, indent=1, sort_keys=True), encoding="utf-8")
