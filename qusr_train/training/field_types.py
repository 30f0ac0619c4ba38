"""Whether the values of a dataclass have the types that its fields are annotated with."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from ..errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def check_types(values: DataclassInstance) -> None:
    """Check every field: a Literal, a tuple of numbers, a number, a whole number, a text, or true or false.

    Raises:
        InputError: names the first field that has another type.
    """
    hints = get_type_hints(type(values))
    for f in dataclasses.fields(values):
        _check_type(f.name, getattr(values, f.name), hints[f.name])


def _check_type(name: str, value: Any, hint: Any) -> None:
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise InputError(f"expected one of {', '.join(get_args(hint))}, but got {value!r}", field=name)
        return
    if get_origin(hint) is tuple:
        fits = isinstance(value, tuple) and all(_is_number(item) for item in value)
        expected = "a list of numbers"
    elif hint is float:
        fits, expected = _is_number(value), "a number"
    else:
        fits = isinstance(value, hint) and not (hint is int and isinstance(value, bool))
        expected = {int: "a whole number", str: "a text", bool: "true or false"}[hint]
    if not fits:
        raise InputError(f"expected {expected}, but got {value!r}", field=name)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
