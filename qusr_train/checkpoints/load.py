"""Any file of the family: ours or the authors'."""

from __future__ import annotations

import os
from pathlib import Path

from .format import refuse_no_file, unusable
from .qusr_file import QUSR_REMEDY, QUSRCheckpoint, load_qusr
from .reference import load_reference


def load_checkpoint(path: str | os.PathLike[str]) -> QUSRCheckpoint:
    """Read a file of the family: our `.safetensors` or the authors' `.pkl`, told apart by content and name.

    Raises:
        CheckpointError: none of them, damaged, or it would run code.
    """

    path = Path(path)
    refuse_no_file(path, QUSR_REMEDY)
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise unusable(path, "cannot be read", error, QUSR_REMEDY) from error
    ours = start[8:9] == b"{" or path.suffix == ".safetensors"
    return load_qusr(path) if ours else load_reference(path)
