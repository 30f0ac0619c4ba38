"""Long attacks, counted: python -m tests.attacks.long kills|images|interrupts --count N

RESULTS.md has what was measured. Each prints one line of JSON with its figures, and exits with 1 on a failure.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def kills(count: int) -> tuple[bool, dict[str, Any]]:
    from tests.attacks.kills import kills as run
    from tests.support.tiny_nano import write

    with tempfile.TemporaryDirectory() as place:
        seen = run(Path(place), write(Path(place) / "tiny.safetensors"), count)
    return not seen.different and not seen.left, dataclasses.asdict(seen)


def _served(name: str, count: int) -> dict[str, Any]:
    from tests.attacks import served
    from tests.support.comfyui import Server

    with Server() as server:
        return dict(getattr(served, name)(server, count))


def images(count: int) -> tuple[bool, dict[str, Any]]:
    seen = _served("images", count)
    return seen["flat"] and not seen["wrong"], seen


def interrupts(count: int) -> tuple[bool, dict[str, Any]]:
    seen = _served("interrupts", count)
    return not seen["wrong runs after"] and not seen["files left"], seen


ATTACKS: dict[str, Callable[[int], tuple[bool, dict[str, Any]]]] = {
    "kills": kills,
    "images": images,
    "interrupts": interrupts,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("attack", choices=list(ATTACKS))
    parser.add_argument("--count", type=int, required=True)
    arguments = parser.parse_args()
    good, figures = ATTACKS[arguments.attack](arguments.count)
    print(json.dumps({**figures, "good": good}))
    sys.exit(0 if good else 1)
