"""`download`: the weights of a public model."""

from __future__ import annotations

import argparse
from pathlib import Path

from .parsers import Commands


def add(commands: Commands) -> None:
    from ..download.catalog import MODELS

    download = commands.add_parser("download", help="fetch the weights of a public model")
    models = "; ".join(f"{m.name}: {m.about} ({m.download}, {m.licence})" for m in MODELS.values())
    download.add_argument("name", metavar="NAME", choices=list(MODELS), help=models)
    download.add_argument("--folder", default=".", metavar="DIR", help="where to put it (default: this folder)")
    download.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from tqdm.auto import tqdm

    from ..download.models import choose, download_model

    bars: dict[str, tqdm] = {}

    def progress(what: str, done: int, total: int | None) -> None:
        if what not in bars:
            bars[what] = tqdm(desc=what, total=total, initial=done, unit="B", unit_scale=True)
        bar = bars[what]
        if done < bar.n:  # the server's file changed, and it starts again
            bar.reset(total)
        bar.update(done - bar.n)

    try:
        outcomes = download_model(choose(arguments.name), [Path(arguments.folder)], progress)
    finally:
        for bar in bars.values():
            bar.close()
    for outcome in outcomes:
        print(outcome)
    return 0
