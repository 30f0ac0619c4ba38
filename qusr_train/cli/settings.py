"""The settings of a training run as flags: one for each field of `TrainConfig`.

Our own fifty lines: jsonargparse would take recipes by path only, and say less of a wrong value.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ..training.config import CONFIGS, TrainConfig, load_config_file


def field_help() -> dict[str, str]:
    """The docstring below each field of `TrainConfig`, for --help."""
    import ast
    import inspect

    body = ast.parse(inspect.getsource(TrainConfig)).body[0]
    assert isinstance(body, ast.ClassDef)
    result = {}
    for statement, following in zip(body.body, body.body[1:], strict=False):
        match statement, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=text)):
                result[name] = str(text)
    return result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser one optional flag for each field; flags override the config file."""
    hints, helps = get_type_hints(TrainConfig), field_help()
    shipped = ", ".join(sorted(path.stem for path in CONFIGS.glob("*.json")))
    parser.add_argument("config", nargs="?", help=f"JSON file with any of the settings below, or one of: {shipped}")
    for f in dataclasses.fields(TrainConfig):
        hint = hints[f.name]
        default = "" if f.default is dataclasses.MISSING else f" (default: {f.default})"
        options: dict[str, Any] = {"help": (helps.get(f.name, "") + default).replace("%", "%%"), "default": None}
        if get_origin(hint) is Literal:
            options["choices"] = get_args(hint)
        elif get_origin(hint) is tuple:
            options |= {"type": float, "nargs": "+"}
        elif hint is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options["type"] = hint
        parser.add_argument(f"--{f.name}", **options)


def from_arguments(arguments: argparse.Namespace) -> TrainConfig:
    """Config file first, then the flags that were given."""
    values = load_config_file(arguments.config) if arguments.config else {}
    for f in dataclasses.fields(TrainConfig):
        given = getattr(arguments, f.name)
        if given is not None:
            values[f.name] = given
    return TrainConfig.from_mapping(values)
