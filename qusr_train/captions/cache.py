"""Captions on disk, by picture, captioner and instruction: what was said once is never asked again.

One SQLite file, which several processes may read and write at once, bounded by dropping what was
used longest ago.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..files import is_regular
from .captioner import Caption, Captioner, Progress

log = logging.getLogger(__name__)

LIMIT = 20_000
"""Captions kept, about 20 MB."""
PATIENCE = 30.0
"""Seconds to wait for other processes to finish writing, at reading and again at writing: many may share a data set."""
AT_THE_SCREEN = 0.45
"""The same where somebody waits: a locked cache then costs less than a second."""
TROUBLE = (sqlite3.Error, OSError, ValueError, TypeError, OverflowError, RecursionError, MemoryError)
"""What SQLite and its Python module raise on files that are damaged, locked, or no database; never worth a caption."""
_UNHARMED = ("locked", "busy", "unable to open", "readonly", "disk")  # errors that say nothing of the file's content


def key_of(image: Tensor, identity: str) -> str:
    """SHA-256 of a picture's 8-bit pixels, its size, and what the caption depends on besides.

    Args:
        image: (3, H, W) in [0, 1].
        identity: the captioner's.
    """
    pixels = (image.detach().float().cpu().clamp(0, 1) * 255.0).round().byte().contiguous()
    digest = hashlib.sha256(json.dumps([identity, list(pixels.shape)]).encode())
    digest.update(pixels.numpy().tobytes())
    return digest.hexdigest()


class CaptionCache:
    """Captions by key. A file that is damaged or cannot be written costs the cache, never the captions."""

    def __init__(self, path: Path, limit: int = LIMIT, patience: float = PATIENCE) -> None:
        self.path = path
        self.limit = limit
        self.patience = patience

    @contextlib.contextmanager
    def _open(self, wait: bool = True) -> Iterator[sqlite3.Connection]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists() and not is_regular(self.path):
            raise OSError(f"{self.path} is no file")
        # Opened for each use: it is quick, and connections survive neither threads nor forks.
        with contextlib.closing(sqlite3.connect(self.path, timeout=self.patience if wait else 0.0)) as connection:
            with connection:
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS captions (key TEXT PRIMARY KEY, text TEXT NOT NULL, numbers TEXT, "
                    "used REAL NOT NULL)"
                )
                connection.execute("CREATE INDEX IF NOT EXISTS by_use ON captions (used)")
            with connection:
                yield connection

    def read(self, keys: Sequence[str]) -> dict[str, Caption]:
        """The captions that are known."""
        if not keys or not self.path.exists():
            return {}
        found: dict[str, Caption] = {}
        try:
            with self._open() as connection:
                for key in dict.fromkeys(keys):
                    row = connection.execute("SELECT text, numbers FROM captions WHERE key = ?", (key,)).fetchone()
                    caption = _caption(*row) if row else None
                    if caption:
                        found[key] = caption
            with self._open(wait=False) as connection:  # only a note: not waited for
                now = time.time()
                connection.executemany("UPDATE captions SET used = ? WHERE key = ?", [(now, key) for key in found])
        except TROUBLE as error:
            self._give_up(error)
        return found

    def write(self, captions: dict[str, Caption]) -> None:
        """Keep captions; the longest unused ones above the limit are dropped."""
        now = time.time()
        rows = [
            (key, caption.text, json.dumps(caption.numbers) if caption.numbers else None, now)
            for key, caption in captions.items()
        ]
        try:
            self._write(rows)
        except TROUBLE as error:
            if self._give_up(error):
                with contextlib.suppress(*TROUBLE):
                    self._write(rows)

    def _write(self, rows: list[tuple[str, str, str | None, float]]) -> None:
        with self._open() as connection:
            connection.executemany("INSERT OR REPLACE INTO captions VALUES (?, ?, ?, ?)", rows)
            connection.execute(
                "DELETE FROM captions WHERE key IN (SELECT key FROM captions ORDER BY used DESC LIMIT -1 OFFSET ?)",
                (self.limit,),
            )

    def _give_up(self, error: BaseException) -> bool:
        """Say so; a damaged file is set aside. Returns whether a new one can be begun."""
        reason = str(error)[:200]
        operational = isinstance(error, sqlite3.OperationalError)
        if isinstance(error, OSError) or (operational and any(word in reason for word in _UNHARMED)):
            log.warning("caption cache %s: not used (%s)", self.path, reason)
            return False
        aside = self.path.with_name(self.path.name + ".damaged")
        log.warning("caption cache %s: damaged (%s); a new one is begun, the old one is %s", self.path, reason, aside)
        try:
            for ending in ("", "-journal", "-wal", "-shm"):  # the new file must not take up the old one's journal
                with contextlib.suppress(FileNotFoundError):
                    self.path.with_name(self.path.name + ending).replace(aside.with_name(aside.name + ending))
        except OSError:  # another process may have it open
            return False
        return True


def _caption(text: Any, numbers: Any) -> Caption | None:
    """A row of the file; None for one that is not ours."""
    if not isinstance(text, str) or not text:
        return None
    if numbers is None:
        return Caption(text)
    measured = json.loads(numbers) if isinstance(numbers, str) and len(numbers) < 100_000 else None
    if not isinstance(measured, dict) or not all(type(value) in (int, float) for value in measured.values()):
        return None
    return Caption(text, measured)


def caption_images(
    captioner: Captioner,
    images: Sequence[Tensor],
    cache: CaptionCache | None = None,
    progress: Progress = lambda count: None,
) -> list[Caption]:
    """Describe pictures, from the cache where it knows them.

    Equal pictures are described once. Nothing of the captioner is loaded when all are in the cache.

    Args:
        captioner: any.
        images: (3, H, W) in [0, 1].
        cache: None describes all anew.
        progress: see `Progress`; hits count too.

    Raises:
        CaptionError: from the captioner.
    """
    from .cache import key_of

    keys = [key_of(image, captioner.identity) for image in images]
    known = cache.read(keys) if cache else {}
    missing = {key: image for key, image in zip(keys, images, strict=True) if key not in known}
    if len(images) > len(missing):
        progress(len(images) - len(missing))
    if missing:
        fresh = captioner.describe(list(missing.values()), progress)
        described = dict(zip(missing, fresh, strict=True))
        if cache:
            cache.write(described)
        known = {**known, **described}
    return [known[key] for key in keys]
