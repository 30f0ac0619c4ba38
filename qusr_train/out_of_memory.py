"""A full device: telling it from other errors and trying again with less."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from .errors import RunError

log = logging.getLogger(__name__)

Result = TypeVar("Result")

WHOLE = 0
"""The side of a tile that means: no tiles."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the device's memory is full.

    PyTorch says it in several ways: `torch.OutOfMemoryError` from its allocator, `torch.AcceleratorError` when the
    driver notices it later, and a plain RuntimeError on Apple's and Intel's devices.
    """
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "out of memory" in str(error).lower()


def empty_cache() -> None:
    """Give back what torch keeps of the device for later."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def halve_until_it_fits(
    attempt: Callable[[int], Result],
    tile: int,
    first: int,
    smallest: int,
    *,
    place: str,
    unit: str,
    remedy: str = "use a half --dtype",
    is_full: Callable[[BaseException], bool] = is_out_of_memory,
    clear: Callable[[], None] = empty_cache,
) -> Result:
    """Run something with a tile's side, and with half of it as long as the device's memory is short.

    Args:
        attempt: what is run; its argument is the side, `WHOLE` for no tiles.
        tile: the side to begin with.
        first: the side tried after `WHOLE`.
        smallest: the last side tried.
        place, unit, remedy: for messages: whose memory is short ("vae"), what a side counts ("pixels"), what to do.
        is_full: whether an exception says so.
        clear: frees what can be freed before the next attempt.

    Raises:
        RunError: out of memory with the smallest tile; every other error of `attempt` as it is.
    """
    while True:
        try:
            return attempt(tile)
        except Exception as error:
            if not is_full(error):
                raise
        # Outside the except block: an exception keeps the tensors of its frames alive.
        if tile and tile <= smallest:
            raise RunError(f"{place}: out of memory even with tiles of {smallest} {unit}; {remedy}")
        tile = max(smallest, (tile // 2 if tile else first) // 8 * 8)
        clear()
        log.warning("out of memory (%s), trying again with tiles of %d %s", place, tile, unit)
