"""A loopback server, a place for its file, and a network without proxies or waiting."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from qusr_train.download import transfer
from tests.support.file_server import FileServer


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "DELAYS", (0.01, 0.01, 0.01))
    monkeypatch.setattr(transfer, "REPORT_EVERY", 0.0)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as running:
        yield running


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "models" / "weights.bin"
