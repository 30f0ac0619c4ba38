"""What `degrade` notes beside its pairs: what was done to each, and what the captioner measures on it.

FOLDER/degradations.jsonl, a line for each pair. So training need not measure again, and its prompts can say
what a picture does not show by itself.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from ..captions import measured as quality
from ..errors import InputError
from .degraded import Applied

RECORDS = "degradations.jsonl"


@dataclass(frozen=True)
class Record:
    """One line."""

    name: str
    """The pair's, without suffix."""
    measured: quality.Quality
    applied: Applied | None

    def line(self) -> str:
        rounded = {key: round(value, 5) for key, value in dataclasses.asdict(self.measured).items()}
        applied = self.applied and {
            "blur": round(self.applied.blur, 4), "noise": round(self.applied.noise, 3), "quality": self.applied.quality,
        }  # fmt: skip
        return json.dumps({"name": self.name, "applied": applied, "measured": rounded}) + "\n"


def read_records(folder: Path) -> dict[str, Record]:
    """The records of a folder by name; empty when it has none. A last line that a kill cut short is left out.

    Raises:
        InputError: a line that is not ours.
    """
    path = folder / RECORDS
    if not path.is_file():
        return {}
    found = {}
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            applied = Applied(**entry["applied"]) if entry["applied"] else None
            found[entry["name"]] = Record(entry["name"], quality.Quality(**entry["measured"]), applied)
        except (ValueError, LookupError, TypeError) as error:
            if number == len(lines):
                break
            raise InputError(f"{path}: line {number} is damaged; delete the file and run `degrade` again") from error
    return found
