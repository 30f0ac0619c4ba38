"""Whole where there is room and nothing to save, else the tiles that waste least."""

from __future__ import annotations

import pytest

from qusr_train.images.tiling import grid
from qusr_train.model.denoiser_tiles import BYTES, OVERLAP, choose_tile, work


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (128, 128), (96, 200), (192, 192)])
def test_small_latents_go_whole(size: tuple[int, int]) -> None:
    assert choose_tile(*size, None, 4) == 0


@pytest.mark.parametrize("size", [(256, 256), (512, 512), (256, 400), (90, 1000)])
def test_tiles_of_large_latents_save_a_quarter_of_the_work(size: tuple[int, int]) -> None:
    tile = choose_tile(*size, None, 2)
    spent = sum(work(one.y1 - one.y0, one.x1 - one.x0) for one in grid(*size, tile, OVERLAP))
    theirs = sum(work(one.y1 - one.y0, one.x1 - one.x0) for one in grid(*size, 96, OVERLAP))
    assert tile
    assert spent <= 0.75 * work(*size)
    assert spent <= theirs, "never more than the reference's 96"


def test_tiles_when_memory_is_short() -> None:
    whole = 128 * 128 * BYTES * 4
    assert choose_tile(128, 128, whole, 4) == 0
    tile = choose_tile(128, 128, whole - 1, 4)
    assert tile == 80, "two of 80 cover 128 with 32 in common; the reference's 96 would do more"
    assert choose_tile(128, 128, 0, 4) == 64, "the smallest even where nothing is free"
    assert choose_tile(128, 128, whole // 2, 2) == 0
