"""Downloading one file from a loopback server that cuts, changes its mind and lies."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from qusr_train.download import transfer
from qusr_train.download.connection import DownloadError, Source
from qusr_train.download.digest import Digest
from qusr_train.download.transfer import fetch
from tests.support.file_server import FileServer, Served

CONTENT = bytes(range(256)) * 2048  # 512 KB
OTHER = CONTENT[::-1]
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
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


def hub(server: FileServer, **options: object) -> Source:
    return Source(server.url + "/weights.bin", etag_is_digest=True, **options)  # type: ignore[arg-type]


def plain(server: FileServer) -> Source:
    return Source(server.url + "/weights.bin")


def beside(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def sha256(content: bytes) -> Digest:
    return Digest("sha256", hashlib.sha256(content).hexdigest())


# --- the good case ---------------------------------------------------------------------------


def test_whole_file_is_verified_and_nothing_else_is_left(server: FileServer, target: Path) -> None:
    server.files["/weights.bin"] = Served.of_hub(CONTENT)
    seen: list[tuple[str, int, int | None]] = []
    how = fetch(hub(server), target, lambda *step: seen.append(step))
    assert how == "verified with the sha256 that the server states"
    assert target.read_bytes() == CONTENT
    assert beside(target) == ["weights.bin"]
    assert seen[0] == ("weights.bin", 0, len(CONTENT))
    assert ("weights.bin", len(CONTENT), len(CONTENT)) in seen
    assert seen[-1] == ("checking weights.bin", len(CONTENT), len(CONTENT))


def test_hash_of_the_redirect_counts_and_the_token_stays_with_the_hub(server: FileServer, target: Path) -> None:
    with FileServer() as storage:
        storage.files["/blob"] = Served(CONTENT, etag='"' + "0" * 64 + '"')  # a storage host's ETag is no hash
        server.files["/moved.bin"] = Served.of_hub(CONTENT, redirect=storage.url + "/blob")
        server.files["/weights.bin"] = Served(b"", redirect="/moved.bin")
        how = fetch(hub(server, token="hf_secret"), target)
        assert how == "verified with the sha256 that the server states"
        assert server.headers("Authorization") == ["Bearer hf_secret"] * 2
        assert storage.headers("Authorization") == [None]
    assert "hf_secret" not in repr(hub(server, token="hf_secret"))


def test_the_etag_of_a_storage_host_is_no_hash(server: FileServer, target: Path) -> None:
    with FileServer() as storage:
        storage.files["/blob"] = Served(CONTENT, etag='"' + "0" * 64 + '"')
        server.files["/weights.bin"] = Served(b"", redirect=storage.url + "/blob")
        assert "no hash, so only the length was checked" in fetch(hub(server), target)


def test_small_files_have_a_git_object_id(server: FileServer, target: Path) -> None:
    blob = subprocess.run(["git", "hash-object", "--stdin"], input=CONTENT, capture_output=True, check=True)
    server.files["/weights.bin"] = Served(CONTENT, etag=f'W/"{blob.stdout.decode().strip()}"')
    assert fetch(hub(server), target) == "verified with the git object id that the server states"


def test_without_any_hash_the_result_says_so(server: FileServer, target: Path) -> None:
    server.files["/weights.bin"] = Served(CONTENT, etag='"v1"')
    assert "no hash, so only the length was checked" in fetch(plain(server), target)
    assert target.read_bytes() == CONTENT


def test_published_hash_is_named(server: FileServer, target: Path) -> None:
    server.files["/weights.bin"] = Served(CONTENT, chunked=True)
    source = Source(server.url + "/weights.bin", size=len(CONTENT), digest=sha256(CONTENT))
    assert fetch(source, target) == "verified with the sha256 published for this file"


def test_empty_file_in_the_place_is_replaced(server: FileServer, target: Path) -> None:
    target.parent.mkdir()
    target.touch()
    server.files["/weights.bin"] = Served.of_hub(CONTENT)
    fetch(hub(server), target)
    assert target.read_bytes() == CONTENT


# --- cut, resumed, changed -------------------------------------------------------------------


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


# --- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (404, r"weights\.bin: not found \(404\) at http.*Or by hand"),
        (401, r"weights\.bin: access refused \(401\).*HF_TOKEN.*Or by hand"),
        (403, r"weights\.bin: access refused \(403\).*HF_TOKEN"),
        (400, r"weights\.bin: the server answered 400"),
    ],
)
def test_refusals_are_not_tried_again(server: FileServer, target: Path, code: int, message: str) -> None:
    server.files["/weights.bin"] = Served.of_hub(CONTENT, codes=[code])
    with pytest.raises(DownloadError, match=message):
        fetch(hub(server, remedy="Or by hand."), target)
    assert len(server.requests) == 1
    assert beside(target) == []


def test_refused_token_is_said_and_not_shown(server: FileServer, target: Path) -> None:
    server.files["/weights.bin"] = Served.of_hub(CONTENT, codes=[401])
    with pytest.raises(DownloadError, match="the token in HF_TOKEN was not accepted") as caught:
        fetch(hub(server, token="hf_secret"), target)
    assert "hf_secret" not in str(caught.value)


@pytest.mark.parametrize("code", [429, 500, 503])
def test_busy_server_is_tried_again(server: FileServer, target: Path, code: int) -> None:
    served = server.files["/weights.bin"] = Served.of_hub(CONTENT, codes=[code, code])
    served.headers["Retry-After"] = "0"
    fetch(hub(server), target)
    assert target.read_bytes() == CONTENT


def test_server_that_stays_busy(server: FileServer, target: Path) -> None:
    server.files["/weights.bin"] = Served.of_hub(CONTENT, codes=[503] * 99)
    with pytest.raises(DownloadError, match=r"cannot be downloaded .*the server answered 503"):
        fetch(hub(server), target)
    assert len(server.requests) == 1 + len(transfer.DELAYS)
    assert beside(target) == []


def test_wrong_hash_deletes_the_part_and_says_so(server: FileServer, target: Path) -> None:
    served = server.files["/weights.bin"] = Served.of_hub(CONTENT)
    served.content = OTHER
    with pytest.raises(DownloadError, match=r"damaged: its sha256 is .*, expected .*The download was deleted"):
        fetch(hub(server), target)
    assert beside(target) == []


def test_server_that_offers_another_file_is_refused_before_the_download(server: FileServer, target: Path) -> None:
    server.files["/weights.bin"] = Served.of_hub(OTHER)
    with pytest.raises(DownloadError, match="the server offers another file"):
        fetch(hub(server, digest=sha256(CONTENT)), target)
    server.files["/weights.bin"] = Served(OTHER[:100])
    with pytest.raises(DownloadError, match=f"offers 100 bytes, expected {len(CONTENT)}"):
        fetch(hub(server, size=len(CONTENT), digest=sha256(CONTENT)), target)
    assert beside(target) == []


def test_web_page_instead_of_the_file(server: FileServer, target: Path) -> None:
    server.files["/weights.bin"] = Served(b"<html>log in</html>", headers={"Content-Type": "text/html; charset=utf-8"})
    with pytest.raises(DownloadError, match="answered with a web page"):
        fetch(hub(server), target)
    assert beside(target) == []


def test_not_enough_room_is_known_before_the_download(server: FileServer, target: Path) -> None:
    server.files["/weights.bin"] = Served(CONTENT, headers={"Content-Length": str(1 << 60)})
    with pytest.raises(DownloadError, match=r"needs 1152921504\.61 GB in .*models, but .* GB are free"):
        fetch(plain(server), target)
    assert beside(target) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's device that is always full")
def test_disk_that_fills_up(server: FileServer, target: Path) -> None:
    target.parent.mkdir()
    target.with_name("weights.bin.qusr-part").symlink_to("/dev/full")
    server.files["/weights.bin"] = Served.of_hub(CONTENT)
    with pytest.raises(DownloadError, match=r"cannot write into .*models: No space left on device"):
        fetch(hub(server), target)


def test_folder_that_cannot_be_made(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    with pytest.raises(DownloadError, match=r"weights\.bin: cannot write into .*models: File exists"):
        fetch(hub(server), tmp_path / "models" / "weights.bin")
    assert not server.requests


@pytest.mark.skipif(not hasattr(os, "geteuid") or not os.geteuid(), reason="root may write everywhere")
def test_read_only_folder(server: FileServer, target: Path) -> None:
    target.parent.mkdir()
    target.parent.chmod(0o500)
    with pytest.raises(DownloadError, match=r"cannot write into .*Permission denied"):
        fetch(hub(server), target)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux's /proc")
def test_folder_that_takes_no_files(server: FileServer) -> None:
    """Holds for root as well."""
    with pytest.raises(DownloadError, match=r"weights\.bin: cannot write into /proc/self"):
        fetch(hub(server), Path("/proc/self/weights.bin"))


def test_nobody_answers(target: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(DownloadError, match=rf"cannot be downloaded from 127\.0\.0\.1:{port}: .*refused.*connection"):
        fetch(Source(f"http://127.0.0.1:{port}/weights.bin"), target)
    assert beside(target) == []


# --- several processes -----------------------------------------------------------------------

RUN = (
    "import sys; from pathlib import Path; from qusr_train.download.connection import Source; "
    "from qusr_train.download.transfer import fetch; "
    "print(fetch(Source(sys.argv[1], etag_is_digest=True), Path(sys.argv[2])))"
)


def start(server: FileServer, target: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RUN, server.url + "/weights.bin", str(target)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_two_processes_download_it_once(server: FileServer, target: Path) -> None:
    gate = threading.Event()
    served = server.files["/weights.bin"] = Served.of_hub(CONTENT, gate=gate)
    first = start(server, target)
    assert served.at_gate.wait(60)
    second = start(server, target)
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(1.5)
    gate.set()
    outputs = [process.communicate(timeout=60)[0].strip() for process in (first, second)]
    assert outputs == ["verified with the sha256 that the server states", "another process did it meanwhile"]
    assert target.read_bytes() == CONTENT
    assert len(server.requests) == 1
    assert beside(target) == ["weights.bin"]


def test_a_killed_process_leaves_nothing_in_the_way(server: FileServer, target: Path) -> None:
    gate = threading.Event()
    served = server.files["/weights.bin"] = Served.of_hub(CONTENT * 8, gate=gate)
    process = start(server, target)
    assert served.at_gate.wait(60)
    process.kill()
    process.communicate()
    gate.set()
    served.gate = None
    assert fetch(hub(server), target) == "verified with the sha256 that the server states"
    assert target.read_bytes() == CONTENT * 8
    assert beside(target) == ["weights.bin"]
