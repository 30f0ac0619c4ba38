"""Out of memory: asking ComfyUI whether that was it, and trying again with smaller tiles."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import comfy.model_management

from ...qusr_train.out_of_memory import is_out_of_memory

log = logging.getLogger(__name__)

WHOLE = 0
"""The side of a tile that means: no tiles."""

Result = TypeVar("Result")


def is_oom(error: BaseException) -> bool:
    """Whether an exception says that the device's memory is full.

    ComfyUI is asked first: from 0.16.5 on it also clears an error that the device would raise once more.
    """
    host_says = getattr(comfy.model_management, "is_oom", None)
    return (host_says is not None and host_says(error)) or is_out_of_memory(error)


def halve_until_it_fits(
    attempt: Callable[[int], Result], tile: int, first: int, smallest: int, place: str, unit: str
) -> Result:
    """Run something with a tile's side, and with half of it as long as the device's memory is short.

    Args:
        attempt: what is run; its argument is the side, `WHOLE` for no tiles.
        tile: the side to begin with.
        first: the side tried after `WHOLE`.
        smallest: the last side tried.
        place, unit: for messages: whose memory is short ("vae"), and what a side counts ("pixels").

    Raises:
        RuntimeError: out of memory with the smallest tile; every other error of `attempt` as it is.
    """
    while True:
        try:
            return attempt(tile)
        except Exception as error:
            if not is_oom(error):
                raise
        # Outside the except block: an exception keeps the tensors of its frames alive.
        if tile and tile <= smallest:
            raise RuntimeError(
                f"{place}: out of memory even with tiles of {smallest} {unit}; close other programs that use the GPU, "
                "or start ComfyUI with --lowvram"
            )
        tile = max(smallest, (tile // 2 if tile else first) // 8 * 8)
        comfy.model_management.soft_empty_cache()
        log.warning("QUSR: out of memory (%s), trying again with tiles of %d %s", place, tile, unit)
