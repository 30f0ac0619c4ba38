"""`photos`: the training photos of qusr-nano."""

from __future__ import annotations

import argparse
from pathlib import Path

from .parsers import Commands


def add(commands: Commands) -> None:
    photos = commands.add_parser("photos", help="fetch the training photos of qusr-nano (Debian; libjxl-tools)")
    photos.add_argument("output", metavar="OUTPUT", help="folder for the photos")
    photos.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from ..data.debian_photos import fetch

    print(f"{fetch(Path(arguments.output))} photos in {arguments.output}")
    return 0
