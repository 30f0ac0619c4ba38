"""Types that every command's flags share."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, TypeAlias

from ..errors import InputError

if TYPE_CHECKING:
    import torch

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def device(name: str) -> torch.device:
    """A torch device by its name. Raises InputError: no such device on this machine."""
    import torch

    try:
        found = torch.device(name)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"is not a device of this machine ({reason}); cpu always works", "device", name) from error
    return found
