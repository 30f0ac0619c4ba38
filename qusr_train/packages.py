"""Packages that only some parts need: their absence is told before anything starts, with what to do about it."""

from __future__ import annotations

import importlib.util
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable

from .errors import RunError

VERSIONS = {"accelerate": "accelerate>=1.0", "transformers": "transformers>=4.50"}
"""What pip is asked for where the name alone is not enough."""


class MissingPackages(RunError):
    """A part was asked for whose packages are not installed."""


def is_installed(package: str) -> bool:
    """Whether Python finds a package; it is not imported."""
    return importlib.util.find_spec(package) is not None


def pip_command(*packages: str) -> str:
    """The command that installs packages into the Python that is running: often not the first one on the PATH."""
    parts = [sys.executable, "-m", "pip", "install", *(VERSIONS.get(name, name) for name in packages)]
    return subprocess.list2cmdline(parts) if os.name == "nt" else shlex.join(parts)


def require_packages(
    purpose: str, packages: Iterable[str], without: str, field: str = "", options: tuple[str, ...] = ()
) -> None:
    """Do nothing if all are installed.

    Args:
        purpose: what they are for, such as "training".
        packages: names that both pip and Python know them by.
        without: what works without them, a full sentence.
        field: the setting that asks for them.
        options: flags that pip needs for them.

    Raises:
        MissingPackages: names those that are absent, the command that installs them, and what works without.
    """
    absent = [name for name in packages if not is_installed(name)]
    if absent:
        raise MissingPackages(
            f"{purpose} needs {', '.join(absent)}, which this Python does not have. Install: "
            f"{pip_command(*options, *absent)} - {without}",
            field=field,
        )
