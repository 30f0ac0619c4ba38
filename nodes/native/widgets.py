"""Numbers and choices that come over a link: ComfyUI checks those that are typed in, not those of another node."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

from comfy_api.latest import io

OWN_WORDS = ("detail",)
"""Inputs that a node itself checks, and only where it reads them."""


def check_links(cls: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """Let a node refuse what is outside of its inputs' ranges and choices, whichever way it came.

    Inputs that the node's own `validate_inputs` names are left to it, as ComfyUI does.

    Returns:
        The same class; its `execute` raises ValueError that names the input.
    """
    inner: Callable[..., io.NodeOutput] = cls.execute.__func__
    signature = inspect.signature(inner)

    @functools.cache
    def checks() -> tuple[bool, dict[str, Any]]:
        schema = cls.define_schema()
        own = inspect.signature(cls.validate_inputs).parameters
        kinds = (io.Int.Input, io.Float.Input, io.Combo.Input)
        return schema.is_input_list, {
            one.id: one for one in schema.inputs if isinstance(one, kinds) and one.id not in {*own, *OWN_WORDS}
        }

    @functools.wraps(inner)
    def execute(cls: type[io.ComfyNode], *values: Any, **named: Any) -> io.NodeOutput:
        listed, inputs = checks()
        for name, value in signature.bind(cls, *values, **named).arguments.items():
            if name in inputs and value is not None:
                for one in value if listed else (value,):
                    _check(inputs[name], one)
        return inner(cls, *values, **named)

    cls.execute = classmethod(execute)
    return cls


def _check(given: Any, value: Any) -> None:
    if isinstance(given, io.Combo.Input):
        if value not in given.options:
            choices = ", ".join(map(str, given.options))
            raise ValueError(f"{given.id}: expected one of {choices}, but got {value!r:.100}")
        return
    low, high = (-math.inf if given.min is None else given.min, math.inf if given.max is None else given.max)
    if isinstance(value, (int, float)) and math.isfinite(value) and low <= value <= high:
        return
    if isinstance(value, (int, float)) and low > 0 and not value > 0:
        raise ValueError(f"{given.id}: expected a number above 0, but got {value:g}")
    raise ValueError(f"{given.id}: expected a number from {low} to {high}, but got {value!r:.50}")
