"""What an HTTP answer says to whoever may ask again."""

from __future__ import annotations

import re
from email.message import Message

PASSING = (408, 425, 429, 500, 502, 503, 504)
"""Answers that may be different a little later."""


def seconds_to_wait(headers: Message) -> float | None:
    """Retry-After in seconds; None where the server says nothing, or names a date."""
    seconds = whole_number(headers.get("Retry-After"))
    return None if seconds is None else float(seconds)


def whole_number(text: str | None) -> int | None:
    """A number in a header; None for anything else, such as a thousand digits or digits of another script."""
    return int(text) if text and re.fullmatch("[0-9]{1,19}", text) else None
