"""The library's errors in the words of a node's inputs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from ...qusr_train.errors import QUSRError


@contextmanager
def input_names(**names: str) -> Iterator[None]:
    """Let an error of the library name this node's input instead of the library's argument.

    Args:
        names: library's argument = node's input, where they differ.
    """
    try:
        yield
    except QUSRError as error:
        if error.field not in names:
            raise
        raise type(error)(error.reason, names[error.field], error.value) from error


def without_flags(text: str, **names: str) -> str:
    """What the command line said, with `--name` as the node's input or as the setting's plain name."""
    return re.sub(r"--([a-z][a-z_0-9]*)(?![a-z_0-9-])", lambda flag: names.get(flag[1], flag[1]), text)
