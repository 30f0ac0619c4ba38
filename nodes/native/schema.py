"""What newer front ends read of a node beyond ComfyUI 0.3.75's node API; older ones get nodes without it."""

from __future__ import annotations

import dataclasses
from typing import Any

from comfy_api.latest import io

ADVANCED = {"advanced": True}
"""As `extra_dict` of an input: shown only when the user asks for the advanced ones."""

_FIELDS = {field.name for field in dataclasses.fields(io.Schema)}


def found_by(words: str) -> dict[str, Any]:
    """Fields of a Schema for a node that is also to be found by these words, which are separated by commas."""
    return {"search_aliases": words.split(", ")} if "search_aliases" in _FIELDS else {}
