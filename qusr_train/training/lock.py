"""One run at a time in a folder: two would write over each other's checkpoints."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import InputError
from ..files import remove_leftovers, write_whole

LOCK, HOLDER = "run.lock", "run.json"


@contextmanager
def run_lock(out: Path) -> Iterator[None]:
    """Hold a run's folder; in a launch of several processes the first one holds it for all.

    The system lets go of it when the process ends, however it ends. What killed runs left half-written is removed.

    Raises:
        InputError: another run holds it; names that one.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"another training is running in {out}, {_holder(out)}; wait for it, stop it, or give another folder", "out"
        ) from error
    try:
        remove_leftovers(out, age=0.0)
        about = {"process": os.getpid(), "machine": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        with write_whole(out / HOLDER) as temporary:
            temporary.write_text(json.dumps(about), encoding="utf-8")
        yield
    finally:
        (out / HOLDER).unlink(missing_ok=True)
        lock.release()


def _holder(out: Path) -> str:
    try:
        about = json.loads((out / HOLDER).read_text(encoding="utf-8"))
        return f"process {about['process']} on {about['machine']} since {about['since']}"
    except (OSError, ValueError, LookupError, TypeError):
        return "which has only just begun"
