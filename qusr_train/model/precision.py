"""Half precision where a CPU is faster with it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
from torch import Tensor


@cache
def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16 products. Others take longer for them than for float32's."""
    if hasattr(torch.cpu, "get_capabilities"):
        found = torch.cpu.get_capabilities()
        return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
    known = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # an older torch
    return known is not None and bool(known())


def fast_products(x: Tensor) -> AbstractContextManager[object]:
    """While the block runs, products and convolutions read bfloat16 and add up in float32: about half the time.

    Only for inference in float32 on a CPU that has the instructions; elsewhere the context does nothing.

    Args:
        x: the network's input.
    """
    on_cpu = x.device.type == "cpu" and x.dtype == torch.float32
    if on_cpu and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu") and multiplies_bfloat16():
        return torch.autocast("cpu", torch.bfloat16)
    return nullcontext()
