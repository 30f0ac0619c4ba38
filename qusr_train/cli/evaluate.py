"""`evaluate`: the paper's metrics of folders of predictions."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import InputError
from .parsers import Commands


def add(commands: Commands) -> None:
    evaluate = commands.add_parser("evaluate", help="the paper's metrics of folders of predictions")
    evaluate.add_argument(
        "--pred", required=True, nargs="+", metavar="[NAME=]DIR", help="folder of predictions; several make a table"
    )
    evaluate.add_argument("--gt", required=True, metavar="DIR", help="folder of ground truth with the same names")
    evaluate.add_argument(
        "--metrics",
        default="psnr,ssim",
        help="comma separated (default: psnr,ssim); also lpips, dists, fid, niqe, clipiqa, musiq, maniqa, by pyiqa",
    )
    evaluate.add_argument("--json", metavar="FILE", help="write the full report to this file")
    evaluate.add_argument("--csv", metavar="FILE", help="write every value as CSV")
    evaluate.add_argument("--markdown", metavar="FILE", help="write the table as Markdown")
    evaluate.add_argument("--html", metavar="FILE", help="write a page with the table, worst and best crops")
    evaluate.add_argument("--device", default="cpu", help="torch device of pyiqa's metrics (default: cpu)")
    evaluate.add_argument("--download", action="store_true", help="let pyiqa download weights that are absent")
    evaluate.add_argument("--niqe", metavar="FILE", help="NIQE's parameters: pyiqa's .mat or basicsr's .npz")
    evaluate.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from ..evaluation import report
    from ..evaluation.evaluate import evaluate_folders, write_json

    metrics = tuple(name.strip() for name in arguments.metrics.split(",") if name.strip())
    folders: dict[str, Path] = {}
    for given in arguments.pred:
        name, equals, folder = given.partition("=")
        path = Path(folder) if equals and not Path(given).is_dir() else Path(given)
        label = name if equals and not Path(given).is_dir() else path.name or str(path)
        if label in folders:
            raise InputError(f"two methods are called {label!r}; write NAME=DIR to tell them apart", field="pred")
        folders[label] = path
    truths = Path(arguments.gt)
    niqe = Path(arguments.niqe) if arguments.niqe else None
    options = {"device": arguments.device, "download": arguments.download, "niqe": niqe}
    reports = {name: evaluate_folders(folder, truths, metrics, **options) for name, folder in folders.items()}
    only = next(iter(reports.values()))
    if arguments.json:
        write_json(Path(arguments.json), only if len(reports) == 1 else {"methods": reports})
    if arguments.csv:
        report.write_csv(Path(arguments.csv), reports)
    if arguments.markdown:
        report.write_text(Path(arguments.markdown), report.markdown_table(reports))
    if arguments.html:
        report.write_text(Path(arguments.html), report.html_report(reports, folders, truths))
    if len(reports) == 1:
        print(f"{len(only['per_image'])} images: " + ", ".join(f"{m} {v:.4f}" for m, v in only["mean"].items()))
    else:
        print(report.markdown_table(reports), end="")
    return 0
