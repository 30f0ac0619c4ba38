"""The commands together, and errors in the words of their flags."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from .. import __version__
from ..errors import QUSRError
from . import ablation, calibrate, caption, convert, degrade, download, evaluate, export, photos, restore, scale, train

FLAGS = {"addresses": "--server", "factor": "--residual", "key_variable": "QUSR_API_KEY"}
"""Flags that are called otherwise than the library's argument."""


def build_parser() -> argparse.ArgumentParser:
    """All commands and flags."""
    called = "qusr" if Path(sys.argv[0]).stem == "qusr" else "python -m qusr_train"
    parser = argparse.ArgumentParser(prog=called, description="QUSR without ComfyUI: restore photos, train, evaluate.")
    parser.add_argument("--version", action="version", version=f"qusr {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (
        restore,
        evaluate,
        train,
        ablation,
        degrade,
        photos,
        caption,
        convert,
        export,
        scale,
        calibrate,
        download,
    ):
        command.add(commands)
    for command_parser in commands.choices.values():  # also behind the command, where one thinks of it
        command_parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Errors that a user can mend become one line on stderr and exit code 2; whatever else is raised is a bug
    and keeps its traceback.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments = build_parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
    except (QUSRError, OSError) as error:  # an OSError tells of the machine and names the file
        if arguments.debug:
            raise
        print(f"error: {_told(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return code


def _told(error: Exception) -> str:
    if not isinstance(error, QUSRError):
        return str(error)
    positional = error.field.isupper()
    return error.told(error.field if positional else FLAGS.get(error.field, f"--{error.field}"))
