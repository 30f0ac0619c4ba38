"""How much of the attacks is run: a short form with the other tests, the long one with QUSR_ATTACK=long."""

from __future__ import annotations

import os

LONG = os.environ.get("QUSR_ATTACK") == "long"


def examples(long: int, share: int = 10) -> int:
    """A number of cases: all of them in the long form, one in `share` in the short one."""
    return long if LONG else max(1, long // share)
