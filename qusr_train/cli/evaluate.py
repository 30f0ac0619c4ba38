"""`evaluate`: the paper's metrics of folders of predictions, and figures of their uncertainty maps."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

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
    evaluate.add_argument(
        "--maps", nargs="+", metavar="[NAME=]DIR",
        help="uncertainty maps of the predictions (`restore --maps`): adds AUSE, AURG, ENCE and more; "
        "with several predictions NAME=DIR, by their names",
    )  # fmt: skip
    evaluate.add_argument("--json", metavar="FILE", help="write the full report to this file")
    evaluate.add_argument("--csv", metavar="FILE", help="write every value as CSV")
    evaluate.add_argument("--markdown", metavar="FILE", help="write the table as Markdown")
    evaluate.add_argument("--html", metavar="FILE", help="write a page with the table, worst and best crops")
    evaluate.add_argument("--device", default="cpu", help="torch device of pyiqa's metrics (default: cpu)")
    evaluate.add_argument("--download", action="store_true", help="let pyiqa download weights that are absent")
    evaluate.add_argument("--niqe", metavar="FILE", help="NIQE's parameters: pyiqa's .mat or basicsr's .npz")
    evaluate.add_argument(
        "--processes", type=int, default=0, help="over which the pictures are spread (default: one for each core)"
    )
    evaluate.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from tqdm.auto import tqdm

    from ..evaluation import report
    from ..evaluation.evaluate import check_metrics, evaluate_folders, write_json

    metrics = tuple(name.strip() for name in arguments.metrics.split(",") if name.strip())
    check_metrics(metrics)  # before a bar is shown
    folders = _named(arguments.pred, "pred")
    maps = _maps(arguments.maps or [], folders)
    truths = Path(arguments.gt)
    niqe = Path(arguments.niqe) if arguments.niqe else None
    if arguments.processes < 0:
        raise InputError("expected at least 1, or 0 for one on each core", "processes", arguments.processes)
    options: dict[str, Any] = {
        "device": arguments.device, "download": arguments.download, "niqe": niqe, "processes": arguments.processes,
    }  # fmt: skip
    reports = {}
    for name, folder in folders.items():
        with tqdm(unit="image", desc=name, leave=False) as bar:

            def each(_done: int, total: int, bar: Any = bar) -> None:
                bar.total = total
                bar.update()

            reports[name] = evaluate_folders(folder, truths, metrics, maps=maps.get(name), each=each, **options)
    only = next(iter(reports.values()))
    if arguments.json:
        write_json(Path(arguments.json), only if len(reports) == 1 else reports)
    if arguments.csv:
        report.write_csv(Path(arguments.csv), reports)
    if arguments.markdown:
        report.write_text(Path(arguments.markdown), report.markdown_table(reports))
    if arguments.html:
        report.write_text(Path(arguments.html), report.html_report(reports, folders, truths))
    if len(reports) == 1:
        print(f"{len(only.per_image)} images: " + ", ".join(f"{m} {v:.4f}" for m, v in only.mean.items()))
    else:
        print(report.markdown_table(reports), end="")
    return 0


def _named(given: list[str], field: str) -> dict[str, Path]:
    """Folders by the names in front of them, or by their own."""
    folders: dict[str, Path] = {}
    for one in given:
        name, equals, folder = one.partition("=")
        path = Path(folder) if equals and not Path(one).is_dir() else Path(one)
        label = name if equals and not Path(one).is_dir() else path.name or str(path)
        if label in folders:
            raise InputError(f"two methods are called {label!r}; write NAME=DIR to tell them apart", field=field)
        folders[label] = path
    return folders


def _maps(given: list[str], folders: dict[str, Path]) -> dict[str, Path]:
    """The maps of each method; with one method no name is needed."""
    if len(given) == len(folders) == 1:
        return {next(iter(folders)): next(iter(_named(given, "maps").values()))}
    maps = _named(given, "maps")
    unknown = sorted(maps.keys() - folders.keys())
    if unknown:
        known = ", ".join(folders)
        raise InputError(f"{unknown[0]!r} is no method of --pred ({known}); write NAME=DIR with their names", "maps")
    return maps
