"""Out of memory: what counts as it, and the sides that are tried."""

from __future__ import annotations

from typing import Any

import pytest
import torch

ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9.05 GB)"),
    getattr(torch, "AcceleratorError", RuntimeError)("CUDA error: out of memory"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_every_kind_of_out_of_memory_counts(pack: Any, error: Exception) -> None:
    assert pack.nodes.native.oom.is_oom(error)


def test_other_errors_and_cancel_do_not_count(pack: Any) -> None:
    import comfy.model_management

    cancel = comfy.model_management.InterruptProcessingException()
    assert not any(
        map(pack.nodes.native.oom.is_oom, (cancel, ValueError("out of memory"), RuntimeError("size mismatch")))
    )
    with pytest.raises(RuntimeError, match="size mismatch"):
        pack.nodes.native.oom.halve_until_it_fits(_fail(RuntimeError("size mismatch")), 64, 32, 32, "vae", "pixels")


def _fail(error: Exception) -> Any:
    def attempt(_: int) -> None:
        raise error

    return attempt


@pytest.mark.parametrize(("tile", "tried"), [(0, [0, 496, 248, 128]), (320, [320, 160, 128]), (128, [128]), (64, [64])])
def test_sides_are_halved_down_to_the_smallest(pack: Any, tile: int, tried: list[int]) -> None:
    sides: list[int] = []

    def attempt(side: int) -> None:
        sides.append(side)
        raise ERRORS[-1]

    with pytest.raises(RuntimeError, match="vae: out of memory even with tiles of 128 pixels"):
        pack.nodes.native.oom.halve_until_it_fits(attempt, tile, 500, 128, "vae", "pixels")
    assert sides == tried
