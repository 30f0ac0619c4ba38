"""What front ends read of a node beyond ComfyUI 0.3.75's node API; older ones get nodes without it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from comfy_api.latest import io

_FIELDS = {field.name for field in dataclasses.fields(io.Schema)}


def found_by(words: str) -> dict[str, Any]:
    """Fields of a Schema for a node that is also to be found by these words, which are separated by commas."""
    return {"search_aliases": words.split(", ")} if "search_aliases" in _FIELDS else {}


def told(given: Any, **facts: Any) -> Any:
    """An input whose definition also tells the front end these facts; our own scripts read them."""
    given.extra_dict = {**given.extra_dict, **facts}
    return given


def advanced(*names: str) -> Callable[[Callable[[Any], io.Schema]], Callable[[Any], io.Schema]]:
    """Inputs of a `define_schema` that are shown only when the user asks for the advanced ones."""

    def mark(define: Callable[[Any], io.Schema]) -> Callable[[Any], io.Schema]:
        @functools.wraps(define)
        def marked(cls: Any) -> io.Schema:
            schema = define(cls)
            inputs = {given.id: given for given in schema.inputs}
            for name in names:
                told(inputs[name], advanced=True)
            return schema

        return marked

    return mark
