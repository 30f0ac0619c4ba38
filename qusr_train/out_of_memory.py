"""A full device: telling it from other errors and trying again with less."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from .errors import RunError

log = logging.getLogger(__name__)

Result = TypeVar("Result")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the device's memory is full.

    PyTorch says it in several ways: `torch.OutOfMemoryError` from its allocator, `torch.AcceleratorError` when the
    driver notices it later, and a plain RuntimeError on Apple's and Intel's devices.
    """
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "out of memory" in str(error).lower()


def smaller_until_it_fits(
    attempt: Callable[[int], Result], tile: int, longest: int, smallest: int, place: str, unit: str
) -> Result:
    """Run something whole (0) or in tiles, and with half their size as long as the device's memory is short."""
    while True:
        try:
            return attempt(tile)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # Outside the except block: an exception keeps the tensors of its frames alive.
        if tile and tile <= smallest:
            raise RunError(f"out of memory in {place} even with tiles of {smallest} {unit}; use a half --dtype")
        tile = max(smallest, (tile or longest) // 2 // 8 * 8)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        log.warning("out of memory in %s, trying again with tiles of %d %s", place, tile, unit)
