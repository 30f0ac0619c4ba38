"""Errors that a user can mend. Everything else that is raised is a bug, and is shown as one.

The library names the argument, setting or file; whoever calls it knows what its own user calls that
(a flag of the command line, an input of a node) and says so with `told`.
"""

from __future__ import annotations


class QUSRError(Exception):
    """What was wrong, and what to do.

    Args:
        reason: "expected X, but got Y; do Z".
        field: the argument or setting it is about, as the library calls it; empty for none.
        value: what that held, where it helps to find the mistake.
    """

    def __init__(self, reason: str, field: str = "", value: object = None) -> None:
        super().__init__(reason)
        self.reason, self.field, self.value = reason, field, value

    def __str__(self) -> str:
        return self.told(self.field)

    def told(self, name: str) -> str:
        """The message with the caller's own name for `field`."""
        if not self.field:
            return self.reason
        return f"{name}: {self.reason}" if self.value is None else f"{name} {self.value}: {self.reason}"


class InputError(QUSRError, ValueError):
    """An argument, a setting or a file that cannot be used."""


class RunError(QUSRError, RuntimeError):
    """Work that could not be finished."""
