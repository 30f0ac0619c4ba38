"""`export`: the LoRA of a QUSR file for programs that know nothing of QUSR."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import InputError
from .parsers import Commands


def add(commands: Commands) -> None:
    export = commands.add_parser("export", help="the UNet's LoRA alone, as diffusers or kohya's programs name it")
    export.add_argument("input", metavar="INPUT", help="a QUSR file: .safetensors, or the authors' .pkl")
    export.add_argument("output", metavar="OUTPUT", help="the .safetensors file to write")
    export.add_argument("--form", choices=("diffusers", "kohya"), default="diffusers", help="(default: diffusers)")
    export.add_argument("--overwrite", action="store_true", help="replace OUTPUT when it exists")
    export.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from ..checkpoints.load import load_checkpoint
    from ..checkpoints.lora_export import export_lora

    target = Path(arguments.output)
    if target.suffix != ".safetensors":
        raise InputError("give a name that ends in .safetensors", "OUTPUT", target)
    if target.exists() and not arguments.overwrite:
        raise InputError("exists already; choose another name or add --overwrite", "OUTPUT", target)
    layers = export_lora(load_checkpoint(Path(arguments.input)), target, arguments.form)
    print(f"{target}: {layers} LoRA layers in {arguments.form}'s form")
    return 0
