"""One file to download: its content, where a loopback server offers it, and what must lie beside it afterwards."""

from __future__ import annotations

import hashlib
from pathlib import Path

from qusr_train.download.connection import Source
from qusr_train.download.digest import Digest
from tests.support.file_server import FileServer

CONTENT = bytes(range(256)) * 2048  # 512 KB
OTHER = CONTENT[::-1]


def hub(server: FileServer, **options: object) -> Source:
    return Source(server.url + "/weights.bin", etag_is_digest=True, **options)  # type: ignore[arg-type]


def plain(server: FileServer) -> Source:
    return Source(server.url + "/weights.bin")


def beside(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def sha256(content: bytes) -> Digest:
    return Digest("sha256", hashlib.sha256(content).hexdigest())
