"""Refusing by name what would fill the machine: Linux gives memory first and kills afterwards."""

from __future__ import annotations

from pathlib import Path

import torch

from .check import ImageError

_MEMINFO = Path("/proc/meminfo")


def available_memory() -> int | None:
    """Bytes that can be taken without swapping; None where the system does not say (only Linux does)."""
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kilobytes = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return None if kilobytes is None else int(kilobytes) * 1024


def free_memory(device: torch.device) -> int | None:
    """Bytes that can be taken on a device; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return available_memory() if device.type == "cpu" else None


def refuse_too_large(width: int, height: int, bytes_each: int) -> None:
    """Raise ImageError when a result of this size does not fit.

    Args:
        width, height: of the result in pixels.
        bytes_each: memory for one pixel of it, at the most.
    """
    needed, free = width * height * bytes_each, available_memory()
    if free is not None and needed > free:
        raise ImageError(
            f"a result of {width} x {height} pixels needs about {needed / 1e9:.1f} GB of memory, but "
            f"{free / 1e9:.1f} GB are free; make the picture smaller or cut it into parts"
        )
