"""Any file of the family: ours or the authors'."""

from __future__ import annotations

import os
from pathlib import Path

from ..files import is_regular
from .format import refuse_no_file, stored_format, stored_method, unusable
from .qusr_file import QUSR_FORMAT, QUSR_REMEDY, QUSRCheckpoint, load_qusr
from .reference import has_pixel_lora, is_reference, load_reference


def is_of_the_family(path: str | os.PathLike[str]) -> bool:
    """Whether a file names itself as ours or as one of the authors'; reads its header or its list of contents only."""
    path = Path(path)
    if not is_regular(path):
        return False
    return stored_format(path) == QUSR_FORMAT if path.suffix == ".safetensors" else is_reference(path)


def has_two_strengths(path: str | os.PathLike[str]) -> bool:
    """Whether a file is of PiSA-SR, which has a pixel-level and a semantic LoRA; reads as little as the above."""
    path = Path(path)
    if not is_regular(path):
        return False
    return stored_method(path) == "pisa-sr" if path.suffix == ".safetensors" else has_pixel_lora(path)


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
