"""Out of memory: asking ComfyUI whether that was it, and trying again with smaller tiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import comfy.model_management

from ...qusr_train import out_of_memory

WHOLE = out_of_memory.WHOLE

Result = TypeVar("Result")


def is_oom(error: BaseException) -> bool:
    """Whether an exception says that the device's memory is full.

    ComfyUI is asked first: from 0.16.5 on it also clears an error that the device would raise once more.
    """
    host_says = getattr(comfy.model_management, "is_oom", None)
    return (host_says is not None and host_says(error)) or out_of_memory.is_out_of_memory(error)


def halve_until_it_fits(
    attempt: Callable[[int], Result], tile: int, first: int, smallest: int, place: str, unit: str
) -> Result:
    """`out_of_memory.halve_until_it_fits` with what ComfyUI knows of the device."""
    return out_of_memory.halve_until_it_fits(
        attempt,
        tile,
        first,
        smallest,
        place=place,
        unit=unit,
        remedy="close other programs that use the GPU, or start ComfyUI with --lowvram",
        is_full=is_oom,
        clear=comfy.model_management.soft_empty_cache,
    )
