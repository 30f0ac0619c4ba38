"""Writing files whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_BEGINNING, _ENDING = ".qusr-", ".part"  # of temporary names; a user's own *.part is never one of them


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it replaces `path` when the block ends well, and is removed otherwise.

    An existing file stays as it was until the new one is complete. Missing folders are made. The temporary name is
    used by nobody else, so two writers of one file do not mix, and a user's own `NAME.part` is not touched.

    Raises:
        OSError: also from the block; one that names no file names `path`, for example "disk full".
    """
    with _beside(path) as temporary:
        yield temporary
        temporary.replace(path)


@contextmanager
def write_new(path: Path) -> Iterator[Path]:
    """Like `write_whole`, but what is there already is never replaced.

    Raises:
        FileExistsError: `path` exists when the block ends.
    """
    with _beside(path) as temporary:
        yield temporary
        try:
            os.link(temporary, path)  # the only rename that refuses an existing name, on every system
        except FileExistsError:
            raise
        except OSError:  # a disk without links, such as exFAT
            with path.open("xb"):
                pass
            temporary.replace(path)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{_BEGINNING}{uuid.uuid4().hex}{_ENDING}"
    try:
        yield temporary
    except OSError as error:
        if error.filename is None or Path(os.fsdecode(error.filename)) == temporary:
            what = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
            raise type(error)(error.errno, f"cannot be written, {what}", str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def numbered(path: Path, number: int) -> Path:
    """`name.txt` for 1, `name-2.txt` for 2 and so on: where a file goes when the name before is taken."""
    return path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")


def remove_leftovers(folder: Path, age: float = 86400.0) -> None:
    """Remove what killed processes left of half-written files.

    Args:
        folder: not searched below.
        age: seconds; younger ones may belong to a process that is writing now. 0 where nobody else can be.
    """
    for path in folder.glob(f"{_BEGINNING}{'?' * 32}{_ENDING}"):
        try:
            if time.time() - path.stat().st_mtime >= age:
                path.unlink()
        except OSError:
            continue  # another process was quicker, or holds it


def is_regular(path: Path) -> bool:
    """Whether it is a file with an end. A pipe or device would be waited for, or read without end."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False
