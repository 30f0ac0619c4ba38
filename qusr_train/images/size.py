"""How large a photo is to become: by a factor, by its longest side, or in megapixels; its shape is always kept."""

from __future__ import annotations

import math
from typing import Literal, get_args

from ..errors import InputError

SizeRule = Literal["factor", "longest side", "megapixels"]
SIZE_RULES: tuple[SizeRule, ...] = get_args(SizeRule)


def target_size(height: int, width: int, rule: str, value: float) -> tuple[int, int]:
    """Height and width after enlarging, at least one pixel a side.

    Args:
        height, width: of the photo, in pixels.
        rule: `factor` multiplies both sides, `longest side` gives it in pixels, `megapixels` gives the area in
            millions of pixels.
        value: for the rule, above 0.

    Raises:
        InputError: another rule, or a value that is not above 0.
    """
    if rule not in SIZE_RULES:
        raise InputError(f"expected one of {', '.join(SIZE_RULES)}, but got {rule!r}", "size")
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"expected a number above 0, but got {value}", rule.replace(" ", "_"))
    if rule == "factor":
        factor = value
    elif rule == "longest side":
        factor = value / max(height, width)
    else:
        factor = math.sqrt(value * 1e6 / (height * width))
    return max(1, round(height * factor)), max(1, round(width * factor))
