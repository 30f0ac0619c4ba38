"""`degrade`: training pairs from photos, once."""

from __future__ import annotations

import argparse
from pathlib import Path

from .parsers import Commands


def add(commands: Commands) -> None:
    degrade = commands.add_parser("degrade", help="make training pairs from photos once; goes on where it stopped")
    degrade.add_argument("--photos", required=True, metavar="DIR", help="folder of sharp photos")
    degrade.add_argument("--out", required=True, metavar="DIR", help="folder for lr and hr; `train --pairs` reads it")
    degrade.add_argument("--count", required=True, type=int, help="number of pairs; 0 with --sheet only shows")
    degrade.add_argument("--patch", type=int, default=512, help="side of the targets in pixels (default: 512)")
    degrade.add_argument("--seed", type=int, default=1, help="(default: 1)")
    degrade.add_argument(
        "--degradation",
        choices=("second_order", "authors", "camera", "camera_mild", "camera_sharp"),
        default="second_order",
    )
    degrade.add_argument("--sharpen_targets", action="store_true", help="unsharp-mask the targets (second_order)")
    degrade.add_argument("--photo_factors", type=float, nargs="+", default=[1.0], help="sizes to use photos at")
    degrade.add_argument("--degradation_ranges", default="", metavar="FILE", help="JSON file with ranges of your own")
    degrade.add_argument("--upright", action="store_true", help="flip crops, but do not turn them")
    degrade.add_argument("--sheet", metavar="FILE.png", help="also write twelve pairs as one picture to look at")
    degrade.add_argument("--in_memory", action="store_true", help="keep the photos in memory: much faster, if they fit")
    degrade.add_argument("--camera_pairs", metavar="DIR", help="real pairs to mix in: CAMERA/hr and CAMERA/lr2")
    degrade.add_argument("--camera_share", type=float, default=0.5, help="probability of a real pair (default: 0.5)")
    degrade.add_argument("--workers", type=int, default=1, help="processes that degrade; 0: this one (default: 1)")
    degrade.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from ..data.pregenerate import Pregeneration, pregenerate, write_sheet

    what = Pregeneration(
        Path(arguments.photos), arguments.patch, arguments.seed, arguments.degradation, arguments.sharpen_targets,
        tuple(arguments.photo_factors), arguments.degradation_ranges, arguments.upright, arguments.in_memory,
        Path(arguments.camera_pairs) if arguments.camera_pairs else None, arguments.camera_share,
    )  # fmt: skip
    only_show = arguments.sheet and arguments.count == 0
    written = 0 if only_show else pregenerate(what, Path(arguments.out), arguments.count, arguments.workers)
    if arguments.sheet:
        write_sheet(Path(arguments.sheet), what.pairs(12))
    if only_show:
        print(arguments.sheet)
        return 0
    print(f"{written} pairs written into {arguments.out}, {arguments.count - written} were there")
    return 0
