"""What has arrived of a download: NAME.qusr-part, and in NAME.qusr-part.json which version
of the server's file that is."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

PART = ".qusr-part"  # not .part: that may be another program's


@dataclass(frozen=True)
class Version:
    """Which version of the file a server has, or a part belongs to."""

    digest: str | None = None
    etag: str | None = None

    def same_as(self, other: Version) -> bool:
        if self.digest or other.digest:
            return self.digest == other.digest
        return self.etag is not None and self.etag == other.etag


@dataclass(frozen=True)
class Part:
    """The unfinished file beside its target."""

    target: Path

    @property
    def path(self) -> Path:
        return self.target.with_name(self.target.name + PART)

    @property
    def _sidecar(self) -> Path:
        return self.target.with_name(f"{self.target.name}{PART}.json")

    def received(self) -> int:
        """Bytes that are there."""
        return self.path.stat().st_size if self.path.exists() else 0

    def version(self) -> Version | None:
        """What it belongs to; None when it cannot be resumed."""
        try:
            version = Version(**json.loads(self._sidecar.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return version if version.digest or version.etag else None

    def belongs_to(self, version: Version) -> None:
        self._sidecar.write_text(json.dumps(asdict(version)), encoding="utf-8")

    def finish(self) -> None:
        """Give it the target's name."""
        self.path.replace(self.target)
        self._sidecar.unlink(missing_ok=True)

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self._sidecar.unlink(missing_ok=True)

    def discard_if_empty(self) -> None:
        if self.path.is_file() and not self.received():
            self.discard()
