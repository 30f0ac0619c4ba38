"""`scale`: a nano model with a weaker residual."""

from __future__ import annotations

import argparse
from pathlib import Path

from .parsers import Commands


def add(commands: Commands) -> None:
    scale = commands.add_parser("scale", help="weaken the residual of a nano model for photos it was not trained on")
    scale.add_argument("input", metavar="INPUT", help="a nano .safetensors file")
    scale.add_argument("output", metavar="OUTPUT", help="the file to write")
    scale.add_argument("--residual", type=float, required=True, help="factor, e.g. 0.7")
    scale.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from ..checkpoints.nano_file import load_nano, save_nano, scale_residual

    save_nano(Path(arguments.output), scale_residual(load_nano(arguments.input), arguments.residual))
    print(arguments.output)
    return 0
