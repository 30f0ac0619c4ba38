"""`restore`: enlarge photos four times and restore them."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from ..errors import InputError
from .parsers import Commands, device


def add(commands: Commands) -> None:
    restore = commands.add_parser("restore", help="enlarge photos four times and restore them")
    restore.add_argument("input", metavar="INPUT", help="an image, or a folder that is searched recursively")
    restore.add_argument("output", metavar="OUTPUT", help="a .png file for one image, else a folder")
    restore.add_argument("--model", default="nano", metavar="nano|FILE", help="bundled model or a .safetensors file")
    restore.add_argument("--prompt", help="quality prompt for every image (default: measured on each)")
    restore.add_argument("--seed", type=int, default=0, help="seed of the injected noise (default: 0)")
    restore.add_argument("--device", default="cpu", help="torch device, e.g. cuda (default: cpu)")
    restore.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from tqdm.auto import tqdm

    from ..checkpoints.nano_file import BUNDLED, load_nano
    from ..images.check import ImageError
    from ..images.find import IMAGE_SUFFIXES, find_images
    from ..restore import Restorer, restore_file

    source, target = Path(arguments.input), Path(arguments.output)
    if not source.exists():
        raise InputError("no such file or folder", "INPUT", source)
    if source.is_dir():
        sources = find_images(source)
        targets = [(target / p.relative_to(source)).with_suffix(".png") for p in sources]
        clashes = {t for t in targets if targets.count(t) > 1}
        if clashes:
            raise InputError(
                f"several images would be written to {sorted(clashes)[0]}; rename one of them", "INPUT", source
            )
    else:
        sources = [source]
        if target.suffix.lower() in IMAGE_SUFFIXES:
            target = target.with_suffix(".png")
            targets = [target]
        else:
            targets = [target / (source.stem + ".png")]
    inputs = {one.resolve() for one in sources}
    for other in targets:
        if other.resolve() in inputs:
            raise InputError("would overwrite an input; choose another place", "OUTPUT", other)
    if source.is_dir() and target.is_file():
        raise InputError("is a file, but INPUT is a folder; give a folder", "OUTPUT", target)
    model = load_nano(BUNDLED if arguments.model == "nano" else arguments.model)
    restorer = Restorer(model, device=device(arguments.device))
    failed = 0
    started = time.monotonic()
    with tqdm(total=len(sources), unit="image") as bar:
        for one, other in zip(sources, targets, strict=True):
            try:
                restore_file(restorer, one, other, arguments.prompt, arguments.seed)
            except ImageError as error:
                failed += 1
                tqdm.write(f"error: {error}", file=sys.stderr)
            bar.update()
    done = len(sources) - failed
    print(f"{done} images restored into {target} in {time.monotonic() - started:.1f} s, {failed} failed")
    return 1 if failed else 0
