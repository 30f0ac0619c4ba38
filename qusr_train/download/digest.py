"""Hashes of a file's content, as servers state them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

CHUNK = 1 << 20


@dataclass(frozen=True)
class Digest:
    """A hash of a file's content."""

    algorithm: Literal["sha256", "git"]
    """`git` is the id of the content in a git repository: SHA-1 of a header with the size, then the bytes."""
    value: str
    """Lower-case hex."""

    @classmethod
    def parse(cls, text: str | None) -> Digest | None:
        """An ETag that is a content hash, as Hugging Face sends it: 64 hex digits (large files) or 40 (small ones)."""
        match = re.fullmatch(r'(?:w/)?"?([0-9a-f]{64}|[0-9a-f]{40})"?', (text or "").strip().lower())
        return match and cls("sha256" if len(match[1]) == 64 else "git", match[1])

    @property
    def label(self) -> str:
        """For people."""
        return "sha256" if self.algorithm == "sha256" else "git object id"

    def of(self, path: Path, step: Callable[[int], None]) -> str:
        """The same kind of hash of a file; `step` is called with the bytes read so far."""
        state = hashlib.sha256() if self.algorithm == "sha256" else hashlib.sha1(usedforsecurity=False)
        if self.algorithm == "git":
            state.update(b"blob %d\0" % path.stat().st_size)
        with path.open("rb") as file:
            while block := file.read(CHUNK):
                state.update(block)
                step(file.tell())
        return state.hexdigest()
