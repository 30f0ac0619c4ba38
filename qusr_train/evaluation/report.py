"""Tables over several methods (Markdown, CSV), and an HTML page with the worst and best crops."""

from __future__ import annotations

import base64
import csv
import html
import io
from pathlib import Path

import numpy as np
import torch

from ..files import write_whole
from ..images.find import match_folders
from ..images.read import read_exact
from ..images.write import png_bytes
from .evaluate import METRICS, Report

Reports = dict[str, Report]
"""Method name -> its report."""

DIGITS = {"psnr": 3, "ssim": 4, "lpips": 4, "dists": 4, "fid": 2, "niqe": 3, "clipiqa": 4, "musiq": 2, "maniqa": 4}
MAP_DIGITS = 4
CROP = 128  # side of a shown crop in pixels


def columns(reports: Reports) -> list[str]:
    """Metrics that at least one method has, in the order of `METRICS`."""
    return [m for m in METRICS if any(m in report.mean for report in reports.values())]


def best_of(reports: Reports, metric: str) -> float:
    """The best mean among the methods."""
    values = [report.mean[metric] for report in reports.values() if metric in report.mean]
    return max(values) if METRICS[metric].higher_is_better else min(values)


def _shown(value: float | None, metric: str) -> str:
    return "" if value is None else f"{value:.{DIGITS.get(metric, MAP_DIGITS)}f}"


def _skipped(reports: Reports) -> dict[str, str]:
    return {m: reason for report in reports.values() for m, reason in report.skipped.items()}


def markdown_table(reports: Reports) -> str:
    """One row for each method, the best value of each column in bold, and what was skipped below.

    The head says whether a higher or a lower value is better.
    """
    metrics = columns(reports)
    heads = [f"{m.upper()} ({'higher' if METRICS[m].higher_is_better else 'lower'})" for m in metrics]
    lines = ["| method | images | " + " | ".join(heads) + " |", "|---|---|" + "---|" * len(metrics)]
    for name, report in reports.items():
        cells = []
        for metric in metrics:
            value = report.mean.get(metric)
            text = _shown(value, metric)
            best = len(reports) > 1 and text and text == _shown(best_of(reports, metric), metric)
            cells.append(f"**{text}**" if best else text)
        lines.append(f"| {name} | {len(report.per_image)} | " + " | ".join(cells) + " |")
    skipped = _skipped(reports)
    lines += ["", *(f"{metric} skipped: {reason}" for metric, reason in skipped.items())] if skipped else []
    return "\n".join(lines) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write a text file whole."""
    with write_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_csv(path: Path, reports: Reports) -> None:
    """One row for each method and image, and one named `mean` for each method."""
    metrics = columns(reports)
    buffer = io.StringIO()
    table = csv.writer(buffer, lineterminator="\n")
    table.writerow(["method", "image", *metrics])
    for name, report in reports.items():
        for image, values in [*sorted(report.per_image.items()), ("mean", report.mean)]:
            table.writerow([name, image, *(f"{values[m]:.6f}" if m in values else "" for m in metrics)])
    write_text(path, buffer.getvalue())


def extreme_crops(prediction: np.ndarray, truth: np.ndarray, side: int = CROP) -> dict[str, tuple[int, int]]:
    """Corners (y, x) of the square with the largest and with the smallest error relative to its contrast.

    Flat squares are easy for every method, so the error is divided by the truth's own variation.
    """
    height, width = truth.shape[:2]
    side = min(side, height, width)
    scores: dict[tuple[int, int], float] = {}
    for y in _starts(height, side):
        for x in _starts(width, side):
            a, b = prediction[y : y + side, x : x + side], truth[y : y + side, x : x + side]
            scores[y, x] = float(np.mean((a - b) ** 2) / (b.var(axis=(0, 1)).mean() + 1e-3))
    return {"worst": max(scores, key=scores.__getitem__), "best": min(scores, key=scores.__getitem__)}


def _starts(length: int, side: int) -> list[int]:
    return sorted({*range(0, length - side, max(1, side // 2)), length - side})


def _picture(image: np.ndarray, title: str) -> str:
    data = base64.b64encode(png_bytes(torch.from_numpy(image).movedim(-1, 0))).decode("ascii")
    text = html.escape(title)
    return f'<figure><img src="data:image/png;base64,{data}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def _html_table(reports: Reports) -> str:
    metrics = columns(reports)
    head = "".join(f"<th>{m.upper()} {'&uarr;' if METRICS[m].higher_is_better else '&darr;'}</th>" for m in metrics)
    rows = []
    for name, report in reports.items():
        cells = ""
        for metric in metrics:
            text = _shown(report.mean.get(metric), metric)
            best = len(reports) > 1 and text == _shown(best_of(reports, metric), metric)
            cells += f"<td>{f'<b>{text}</b>' if best else text}</td>"
        rows.append(f"<tr><td>{html.escape(name)}</td><td>{len(report.per_image)}</td>{cells}</tr>")
    return f"<table><tr><th>method</th><th>images</th>{head}</tr>{''.join(rows)}</table>"


_STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em; color: #222 }
table { border-collapse: collapse } td, th { border: 1px solid #ccc; padding: .3em .7em; text-align: right }
td:first-child, th:first-child { text-align: left }
h2 { margin: 2em 0 .2em } .note { font-size: .85em; color: #555; margin: .4em 0 }
.row { display: flex; flex-wrap: wrap; gap: .6em; margin: .6em 0 1.4em }
figure { margin: 0; width: 256px } figcaption { font-size: .8em; margin-top: .2em; overflow-wrap: anywhere }
img { width: 256px; image-rendering: pixelated; display: block; background: #eee }
"""


def html_report(reports: Reports, folders: dict[str, Path], truths: Path, count: int = 3) -> str:
    """A page that stands alone: the table, and for each method its worst and best images as crops.

    Args:
        reports: by method.
        folders: each method's predictions.
        truths: the ground truth.
        count: how many of the worst and of the best images to show for each method.
    """
    parts = [_html_table(reports)]
    for metric, reason in _skipped(reports).items():
        parts.append(f'<p class="note"><b>{metric.upper()}</b> skipped: {html.escape(reason)}</p>')
    pairs = {name: match_folders(folder, truths) for name, folder in folders.items()}
    metric = columns(reports)[0]
    for name, report in reports.items():
        scored = {stem: values[metric] for stem, values in report.per_image.items() if metric in values}
        order = sorted(scored, key=lambda stem: scored[stem], reverse=not METRICS[metric].higher_is_better)
        for kind, stems in (("worst", order[:count]), ("best", order[::-1][:count])):
            parts.append(f"<h2>{html.escape(name)}: {kind} by {metric.upper()}</h2>")
            note = f"The {kind} {CROP} x {CROP} crop of each, twice enlarged; the figures are those of the whole image."
            parts.append(f'<p class="note">{note}</p>')
            for stem in stems:
                truth = read_exact(pairs[name][stem][1])
                y, x = extreme_crops(read_exact(pairs[name][stem][0]), truth)[kind]
                area = (slice(y, y + CROP), slice(x, x + CROP))
                shown = [_picture(truth[area], f"{stem}, x {x}, y {y}: ground truth")]
                for other, matched in pairs.items():
                    if stem in matched:
                        value = _shown(reports[other].per_image[stem].get(metric), metric)
                        shown.append(_picture(read_exact(matched[stem][0])[area], f"{other}: {value}"))
                parts.append(f'<div class="row">{"".join(shown)}</div>')
    body = "\n".join(parts)
    return f'<!doctype html><html lang="en"><meta charset="utf-8"><title>QUSR evaluation</title><style>{_STYLE}</style>\
<h1>QUSR evaluation</h1>{body}</html>\n'
