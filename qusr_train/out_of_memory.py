"""Telling a full device from other errors."""

from __future__ import annotations

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the device's memory is full.

    PyTorch says it in several ways: `torch.OutOfMemoryError` from its allocator, `torch.AcceleratorError` when the
    driver notices it later, and a plain RuntimeError on Apple's and Intel's devices.
    """
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "out of memory" in str(error).lower()
