"""`convert`: an authors' .pkl as a .safetensors file."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import InputError
from .parsers import Commands


def add(commands: Commands) -> None:
    convert = commands.add_parser("convert", help="turn a .pkl of the authors into a .safetensors file")
    convert.add_argument("input", metavar="INPUT", help="the .pkl file; no code in it is run")
    convert.add_argument("output", metavar="OUTPUT", help="the .safetensors file to write")
    convert.add_argument("--overwrite", action="store_true", help="replace OUTPUT when it exists")
    convert.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from ..checkpoints.load import load_checkpoint
    from ..checkpoints.qusr_file import save_qusr

    source, target = Path(arguments.input), Path(arguments.output)
    if target.suffix != ".safetensors":
        raise InputError("give a name that ends in .safetensors", "OUTPUT", target)
    if target.exists() and not arguments.overwrite:
        raise InputError("exists already; choose another name or add --overwrite", "OUTPUT", target)
    checkpoint = load_checkpoint(source)
    save_qusr(target, checkpoint)
    print(f"{target}: {checkpoint.method}, {len(checkpoint.lora)} LoRA layers")
    return 0
