"""Seams of tiles, found by what an eye sees: a step across a line that runs through the whole picture."""

from __future__ import annotations

import itertools

from torch import Tensor


def ridge(difference: Tensor, border: int, width: int = 1) -> float:
    """How much a picture's difference to the untiled one jumps at a column, against its columns elsewhere.

    Args:
        difference: (B, C, H, W), tiled minus whole.
        border: the column to look at; the step is the one from it to the next.
        width: columns to either side that are looked at too.

    Returns:
        Largest root mean square step there, divided by the median over all columns: 1 for none.
    """
    step = (difference[..., 1:] - difference[..., :-1]).square().mean((0, 1, 2)).sqrt()  # (W - 1,)
    usual = step[4:-4].median()  # without the picture's own border
    return (step[border - width : border + width + 1].max() / usual).item()


def ridges(difference: Tensor, starts: list[int], tile: int) -> dict[int, float]:
    """`ridge` at every place where tiles begin, end or meet in the middle of their overlap, for both directions.

    Args:
        difference: (B, C, N, N).
        starts: first pixels of the tiles along a side.
        tile: their side.
    """
    size = difference.shape[-1]
    edges = {edge for start in starts for edge in (start - 1, start + tile - 1) if 4 < edge < size - 5}
    middles = {(before + tile + after) // 2 - 1 for before, after in itertools.pairwise(starts)}
    turned = difference.transpose(-1, -2)
    return {place: max(ridge(difference, place), ridge(turned, place)) for place in sorted(edges | middles)}
