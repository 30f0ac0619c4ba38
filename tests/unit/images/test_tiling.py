"""Tiles: every pixel covered for every size, and blending that leaves no trace."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from qusr_train.images.tiling import (
    Tile,
    blend_tiles,
    count_tiles,
    exact_tiles,
    gaussian_weights,
    grid,
    iterate_images,
    starts,
)

# Around the overlap (8) and the tile (16): the reference crashes or never ends for several of these.
SIDES = [1, 7, 8, 9, 15, 16, 17, 24, 25, 40]


@pytest.mark.parametrize("width", SIDES)
@pytest.mark.parametrize("height", SIDES)
def test_tiles_cover_everything_and_stay_inside(height: int, width: int) -> None:
    covered = torch.zeros(height, width)
    for tile in grid(height, width, 16, 8):
        assert 0 <= tile.y0 < tile.y1 <= height
        assert 0 <= tile.x0 < tile.x1 <= width
        assert (tile.y1 - tile.y0, tile.x1 - tile.x0) == (min(16, height), min(16, width))
        covered[tile.y0 : tile.y1, tile.x0 : tile.x1] += 1
    assert covered.min() >= 1


def test_last_tile_is_flush_with_the_end() -> None:
    assert starts(40, 16, 8) == [0, 8, 16, 24]
    assert starts(41, 16, 8) == [0, 8, 16, 24, 25]
    assert starts(16, 16, 8) == [0]


def test_neighbours_overlap_at_least_as_promised() -> None:
    for length, tile, overlap in itertools.product(range(1, 60, 3), (4, 9, 16), (0, 1, 3)):
        positions = starts(length, tile, overlap)
        steps = [b - a for a, b in itertools.pairwise(positions)]
        assert all(0 < step <= tile - overlap for step in steps), (length, tile, overlap)


def test_order_is_the_references_x_outer_y_inner() -> None:
    corners = [(tile.x0, tile.y0) for tile in grid(24, 24, 16, 8)]
    assert corners == [(0, 0), (0, 8), (8, 0), (8, 8)]


@pytest.mark.parametrize(("tile", "overlap"), [(0, 0), (8, 8), (8, 9), (8, -1)])
def test_impossible_tiles_are_refused(tile: int, overlap: int) -> None:
    with pytest.raises(ValueError, match=rf"got tile={tile}, overlap={overlap}"):
        grid(32, 32, tile, overlap)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (4, 7), (16, 16)])
def test_weights_are_positive_and_symmetric(height: int, width: int) -> None:
    weights = gaussian_weights(height, width)
    assert weights.shape == (height, width)
    assert weights.dtype == torch.float64
    assert weights.min() > 0
    torch.testing.assert_close(weights, weights.flip(0))
    torch.testing.assert_close(weights, weights.flip(1))
    torch.testing.assert_close(gaussian_weights(width, height), weights.T)


def test_weights_by_hand() -> None:
    # Variance 0.01 of the side squared: at distance 1 of 3 the exponent is -(1/9) / 0.02.
    middle = 1 / math.sqrt(2 * math.pi * 0.01)
    side = middle * math.exp(-(1 / 9) / 0.02)
    expected = torch.tensor([[side, middle, side]], dtype=torch.float64) * middle
    torch.testing.assert_close(gaussian_weights(1, 3), expected)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 40), (9, 17), (16, 16), (33, 50)])
def test_blended_identity_is_the_input(height: int, width: int) -> None:
    x = torch.randn(2, 3, height, width)
    torch.testing.assert_close(blend_tiles(x, lambda window, _: window, 16, 8), x, atol=1e-6, rtol=1e-6)


def test_window_and_its_place_belong_together() -> None:
    x = torch.arange(600.0).view(1, 1, 20, 30)
    corners: list[tuple[float, float]] = []

    def note(window: Tensor, tile: Tile) -> Tensor:
        corners.append((window[0, 0, 0, 0].item(), tile.y0 * 30 + tile.x0))
        return window

    blend_tiles(x, note, 16, 4)
    assert [value for value, _ in corners] == [place for _, place in corners] == [0, 120, 12, 132, 14, 134]


def test_overlap_is_a_weighted_mean_of_both_tiles() -> None:
    # Two tiles in a row of 24: 0 from the first, 1 from the second, a rising mean between.
    def which(window: Tensor, tile: Tile) -> Tensor:
        return torch.full_like(window, float(tile.x0 > 0))

    row = blend_tiles(torch.zeros(1, 1, 16, 24), which, 16, 8)[0, 0, 5]
    assert row[:8].tolist() == [0] * 8
    assert row[16:].tolist() == [1] * 8
    assert torch.all(row[8:16].diff() > 0)
    torch.testing.assert_close(row[8:16] + row[8:16].flip(0), torch.ones(8))


def test_half_precision_is_blended_in_float32() -> None:
    x = torch.full((1, 1, 20, 20), 0.1, dtype=torch.float16)
    result = blend_tiles(x, lambda window, _: window, 16, 8)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, x.float(), atol=1e-6, rtol=0)


def test_each_window_is_reported_once() -> None:
    calls: list[None] = []
    blend_tiles(torch.zeros(1, 1, 40, 41), lambda window, _: window, 16, 8, each=lambda: calls.append(None))
    assert len(calls) == 4 * 5 == count_tiles(40, 41, 16, 8)


def test_images_come_one_by_one() -> None:
    batch = torch.rand(3, 2, 4, 5)
    images = list(iterate_images(batch))
    assert [image.shape for image in images] == [(1, 2, 4, 5)] * 3
    assert torch.equal(torch.cat(images), batch)


@pytest.mark.parametrize("size", [(8, 8), (40, 23), (33, 64)])
def test_exact_tiles_equal_the_whole(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    function = torch.nn.Conv2d(2, 2, 5, padding=2)
    x = torch.randn(1, 2, *size)
    windows = []

    def one(window: torch.Tensor, place: Tile) -> torch.Tensor:
        windows.append(window.shape[-2:])
        assert torch.equal(place.of(x), window)
        return function(window)

    torch.testing.assert_close(exact_tiles(x, one, tile=16, margin=2), function(x))
    assert max(max(window) for window in windows) <= 20
