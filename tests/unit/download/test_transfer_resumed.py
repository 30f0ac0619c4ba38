"""A loopback server that cuts and changes its mind: the download goes on, or starts again."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from qusr_train.download import transfer
from qusr_train.download.connection import DownloadError
from qusr_train.download.transfer import fetch
from tests.support.file_server import FileServer, Served
from tests.support.weights_file import CONTENT, OTHER, beside, hub, plain

pytestmark = pytest.mark.usefixtures("quick")


@pytest.mark.parametrize("etag_only", [False, True])
def test_cut_connections_are_resumed(server: FileServer, target: Path, etag_only: bool) -> None:
    cuts = [100_000, 100_000, 0, 100_000]
    served = Served(CONTENT, etag='"v1"', cuts=cuts) if etag_only else Served.of_hub(CONTENT, cuts=cuts)
    server.files["/weights.bin"] = served
    fetch(plain(server) if etag_only else hub(server), target)
    assert target.read_bytes() == CONTENT
    assert server.headers("Range") == [None, "bytes=100000-", "bytes=200000-", "bytes=200000-", "bytes=300000-"]
    assert server.headers("If-Range")[1:] == ['"v1"' if etag_only else None] * 4
    assert server.sent == len(CONTENT), "nothing was sent twice"


def test_a_chunked_answer_that_is_cut_is_resumed(server: FileServer, target: Path) -> None:
    server.files["/weights.bin"] = Served.of_hub(CONTENT, chunked=True, cuts=[100_000])
    fetch(hub(server), target)
    assert target.read_bytes() == CONTENT
    assert server.headers("Range")[1] == "bytes=100000-"


def test_progress_starts_the_count_of_tries_again(server: FileServer, target: Path) -> None:
    server.files["/weights.bin"] = Served.of_hub(CONTENT, cuts=[20_000] * 20)
    fetch(hub(server), target)
    assert target.read_bytes() == CONTENT


def test_the_next_run_goes_on(server: FileServer, target: Path) -> None:
    server.files["/weights.bin"] = Served.of_hub(CONTENT, cuts=[300_000, 0, 0, 0])
    with pytest.raises(DownloadError, match=r"weights\.bin: cannot be downloaded from .*cut after 300000 .*is kept"):
        fetch(hub(server), target)
    assert not target.exists()
    assert beside(target) == ["weights.bin.qusr-part", "weights.bin.qusr-part.json"]
    fetch(hub(server), target)
    assert target.read_bytes() == CONTENT
    assert server.sent == len(CONTENT)
    assert beside(target) == ["weights.bin"]


def test_a_part_of_another_origin_is_not_trusted(server: FileServer, target: Path) -> None:
    target.parent.mkdir()
    target.with_name("weights.bin.qusr-part").write_bytes(OTHER[:1000])
    server.files["/weights.bin"] = Served.of_hub(CONTENT)
    fetch(hub(server), target)
    assert target.read_bytes() == CONTENT
    assert server.headers("Range") == [None]


def test_all_had_arrived_before_the_last_run_was_stopped(server: FileServer, target: Path) -> None:
    server.files["/weights.bin"] = Served.of_hub(CONTENT)

    class Stop(Exception):
        pass

    def stop_while_checking(what: str, done: int, total: int | None) -> None:
        if what.startswith("checking"):
            raise Stop

    with pytest.raises(Stop):
        fetch(hub(server), target, stop_while_checking)
    assert fetch(hub(server), target) == "verified with the sha256 that the server states"
    assert server.sent == len(CONTENT)


def test_server_that_ignores_range(server: FileServer, target: Path) -> None:
    server.files["/weights.bin"] = Served.of_hub(CONTENT, ranges=False, cuts=[100_000, 50_000])
    fetch(hub(server), target)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("if_range", [True, False])
def test_file_that_changes_between_two_tries_with_etag_only(server: FileServer, target: Path, if_range: bool) -> None:
    """Also where the server does not know If-Range and sends a piece of the new file."""
    server.files["/weights.bin"] = Served(CONTENT, etag='"v1"', cuts=[100_000, 0, 0, 0])
    with pytest.raises(DownloadError):
        fetch(plain(server), target)
    server.files["/weights.bin"] = Served(OTHER, etag='"v2"', if_range=if_range)
    fetch(plain(server), target)
    assert target.read_bytes() == OTHER


def test_file_that_changes_between_two_tries_with_a_hash(server: FileServer, target: Path) -> None:
    server.files["/weights.bin"] = Served.of_hub(CONTENT, cuts=[100_000, 0, 0, 0])
    with pytest.raises(DownloadError):
        fetch(hub(server), target)
    server.files["/weights.bin"] = Served.of_hub(OTHER)
    fetch(hub(server), target)
    assert target.read_bytes() == OTHER


def test_file_that_became_shorter(server: FileServer, target: Path) -> None:
    server.files["/weights.bin"] = Served.of_hub(CONTENT, cuts=[100_000, 0, 0, 0])
    with pytest.raises(DownloadError):
        fetch(hub(server), target)
    server.files["/weights.bin"] = Served.of_hub(CONTENT[:50_000])
    fetch(hub(server), target)
    assert target.read_bytes() == CONTENT[:50_000]


def test_cancel_between_chunks_keeps_what_arrived(server: FileServer, target: Path) -> None:
    class Cancelled(BaseException):
        pass

    gate = threading.Event()
    served = server.files["/weights.bin"] = Served.of_hub(CONTENT, gate=gate)
    arrived = 0

    def progress(what: str, done: int, total: int | None) -> None:
        nonlocal arrived
        arrived = done
        gate.set()

    def check() -> None:
        if arrived:
            raise Cancelled

    with pytest.raises(Cancelled):
        fetch(hub(server), target, progress, check)
    assert 0 < target.with_name("weights.bin.qusr-part").stat().st_size < len(CONTENT)
    served.gate = None
    fetch(hub(server), target)
    assert target.read_bytes() == CONTENT
    assert server.headers("Range")[-1] == f"bytes={arrived}-"


def test_cancel_while_waiting_for_the_next_try(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cancelled(BaseException):
        pass

    def check() -> None:
        if server.requests:
            raise Cancelled

    monkeypatch.setattr(transfer, "DELAYS", (3600.0,))
    server.files["/weights.bin"] = Served.of_hub(CONTENT, codes=[503] * 9)
    with pytest.raises(Cancelled):
        fetch(hub(server), target, check=check)
