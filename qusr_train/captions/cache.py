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

from torch import Tensor

from .captioner import Caption, Captioner, Progress

log = logging.getLogger(__name__)

LIMIT = 20_000
"""Captions kept, about 20 MB."""
PATIENCE = 30.0
"""Seconds to wait for another process to finish writing."""


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

    def __init__(self, path: Path, limit: int = LIMIT) -> None:
        self.path = path
        self.limit = limit

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Opened for each use: it is quick, and connections survive neither threads nor forks.
        with contextlib.closing(sqlite3.connect(self.path, timeout=PATIENCE)) as connection:
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
                    if row:
                        found[key] = Caption(row[0], json.loads(row[1]) if row[1] else None)
                now = time.time()
                connection.executemany("UPDATE captions SET used = ? WHERE key = ?", [(now, key) for key in found])
        except (sqlite3.Error, OSError, ValueError) as error:
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
            with self._open() as connection:
                connection.executemany("INSERT OR REPLACE INTO captions VALUES (?, ?, ?, ?)", rows)
                connection.execute(
                    "DELETE FROM captions WHERE key IN (SELECT key FROM captions ORDER BY used DESC LIMIT -1 OFFSET ?)",
                    (self.limit,),
                )
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        log.warning("caption cache %s: not used (%s)", self.path, error)
        damaged = isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError)
        if damaged:
            with contextlib.suppress(OSError):  # another process may have it open
                self.path.replace(self.path.with_name(self.path.name + ".damaged"))


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
