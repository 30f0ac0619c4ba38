"""`train`: qusr-nano, or QUSR on SD 2.1-base."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from .parsers import Commands
from .settings import add_arguments, from_arguments


def add(commands: Commands) -> None:
    train = commands.add_parser("train", help="train qusr-nano, or QUSR on SD 2.1-base")
    add_arguments(train)
    train.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    import signal
    import threading

    from ..training.loop import TrainingStopped, train
    from ..training.tracking import stop_file

    config = from_arguments(arguments)
    stop = stop_file(Path(config.out), config.stage)
    asked = threading.Event()
    previous = {number: signal.signal(number, lambda *_: asked.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        path = train(config, should_stop=lambda: asked.is_set() or stop.exists())
    except TrainingStopped as error:
        print(error, file=sys.stderr)
        return 130
    finally:
        stop.unlink(missing_ok=True)
        for number, handler in previous.items():
            signal.signal(number, handler)
    if os.environ.get("RANK", "0") == "0":  # one line, not one for each process
        print(path)
    return 0
