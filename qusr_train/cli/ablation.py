"""`ablation`: nano without prior, without noise, with both."""

from __future__ import annotations

import argparse
from pathlib import Path

from .parsers import Commands
from .settings import add_arguments, from_arguments


def add(commands: Commands) -> None:
    ablation = commands.add_parser("ablation", help="train and compare nano without prior, without noise, with both")
    ablation.add_argument("--eval", required=True, metavar="DIR", help="folder with lr and hr to compare on")
    add_arguments(ablation)
    ablation.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from ..evaluation.report import markdown_table
    from ..training.ablation import run_ablation

    print(markdown_table(run_ablation(from_arguments(arguments), Path(arguments.eval))), end="")
    return 0
