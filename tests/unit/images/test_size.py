"""Sizes worked out by hand; the shape is kept."""

from __future__ import annotations

import pytest

from qusr_train.errors import InputError
from qusr_train.images.size import target_size


@pytest.mark.parametrize(
    ("size", "rule", "value", "expected"),
    [
        ((100, 50), "factor", 4, (400, 200)),
        ((100, 50), "factor", 1, (100, 50)),
        ((3, 5), "factor", 2.5, (8, 12)),
        ((1, 9), "factor", 0.25, (1, 2)),
        ((600, 800), "longest side", 2048, (1536, 2048)),
        ((800, 600), "longest side", 400, (400, 300)),
        ((1, 4000), "longest side", 8, (1, 8)),
        ((500, 2000), "megapixels", 4, (1000, 4000)),
    ],
)
def test_by_hand(size: tuple[int, int], rule: str, value: float, expected: tuple[int, int]) -> None:
    assert target_size(*size, rule, value) == expected


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_a_value_that_is_no_size_is_refused(value: float) -> None:
    with pytest.raises(InputError, match="longest_side: expected a number above 0"):
        target_size(4, 4, "longest side", value)
