"""Servers that lie about lengths, ranges and numbers, or drip (issue 16, item 11)."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
from pathlib import Path

import pytest

from qusr_train.download import connection, transfer
from qusr_train.download.connection import DownloadError, Source
from qusr_train.download.digest import Digest
from tests.attacks.size import examples
from tests.support.file_server import FileServer, Served

CONTENT = random.Random(0).randbytes(5000)


class RawServer:
    """Answers every connection with the same bytes, some of them one at a time."""

    def __init__(self, head: bytes, drip: bytes = b"") -> None:
        self.head, self.drip = head, drip
        self.stop = threading.Event()

    def __enter__(self) -> str:
        self.socket = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._serve, daemon=True).start()
        return f"http://127.0.0.1:{self.socket.getsockname()[1]}/file"

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.socket.close()

    def _serve(self) -> None:
        while not self.stop.is_set():
            try:
                near, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(near,), daemon=True).start()

    def _answer(self, near: socket.socket) -> None:
        try:
            with near:
                near.recv(65536)
                near.sendall(self.head)
                while self.drip and not self.stop.wait(0.05):
                    near.sendall(self.drip)
                near.shutdown(socket.SHUT_WR)
                near.recv(1)
        except OSError:
            pass


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "DELAYS", (0.0, 0.0))


def _head(*lines: str, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\n".encode() + "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n"


LENGTH = f"Content-Length: {len(CONTENT)}"
LIES = {
    "empty": _head("Content-Length: 0"),
    "nothing": b"",
    "no length and nothing": _head("Connection: close"),
    "short": _head(LENGTH) + CONTENT[:-1],
    "short without length": _head("Connection: close") + CONTENT[:-1],
    "more without length": _head("Connection: close") + CONTENT + b"x" * 100_000,
    "other length": _head("Content-Length: 6000") + CONTENT + b"x" * 1000,
    "digits": _head("Content-Length: " + "9" * 5000) + CONTENT[:10],
    "other digits": _head("Content-Length: \u00b2") + CONTENT[:10],
    "negative": _head("Content-Length: -5") + CONTENT[:10],
    "part unasked": _head("Content-Range: bytes 0-99/5000", "Content-Length: 100", status="206 x") + CONTENT[:100],
    "part of the middle": _head("Content-Range: bytes 9-99/5000", "Content-Length: 91", status="206 x") + CONTENT[9:],
    "part without range": _head(LENGTH, status="206 x") + CONTENT,
    "range backwards": _head("Content-Range: bytes 99-0/5000", LENGTH, status="206 x") + CONTENT,
    "range of digits": _head(f"Content-Range: bytes 0-{'9' * 3000}/*", LENGTH, status="206 x") + CONTENT,
    "part of unknown": _head("Content-Range: bytes 0-99/*", "Content-Length: 100", status="206 x") + CONTENT[:100],
    "bad chunk": _head("Transfer-Encoding: chunked") + b"zz\r\nabc",
    "negative chunk": _head("Transfer-Encoding: chunked") + b"-5\r\nabc",
    "chunk without end": _head("Transfer-Encoding: chunked") + b"ffffffff\r\nabc",
    "retry": _head("Retry-After: \u00b2", "Content-Length: 0", status="503 x"),
    "retry of digits": _head("Retry-After: " + "9" * 400, "Content-Length: 0", status="404 x"),
    "416": _head("Content-Range: bytes */\u00b2", "Content-Length: 0", status="416 x"),
    "redirect nowhere": _head("Location: http://[", "Content-Length: 0", status="302 x"),
    "redirect to a port": _head("Location: http://127.0.0.1:99999999/", "Content-Length: 0", status="302 x"),
    "redirect to a file": _head("Location: file:///etc/passwd", "Content-Length: 0", status="302 x"),
    "redirect to itself": _head("Location: /file", "Content-Length: 0", status="302 x"),
    "no HTTP": b"\x00\xff" * 100,
    "endless header": _head("X: " + "x" * 100_000),
    "many headers": _head(*(f"X{number}: 1" for number in range(1000))),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(LIES))
def test_a_lie_is_an_error_and_no_file(tmp_path: Path, kind: str) -> None:
    """Also without a hash: the size that is known is enough."""
    with RawServer(LIES[kind]) as url, pytest.raises(DownloadError, match=r"model\.bin") as caught:
        transfer.fetch(Source(url, size=len(CONTENT)), tmp_path / "model.bin")
    assert not (tmp_path / "model.bin").exists()
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("kind", ["empty", "no length and nothing", "part unasked", "short"])
def test_lies_without_a_known_size(tmp_path: Path, kind: str) -> None:
    with RawServer(LIES[kind]) as url, pytest.raises(DownloadError, match=r"model\.bin"):
        transfer.fetch(Source(url), tmp_path / "model.bin")
    assert not (tmp_path / "model.bin").exists()


class Cancelled(BaseException):
    """As ComfyUI's."""


DRIPS = {
    "header": RawServer(b"HTTP/1.1 200 OK\r\nX: ", b"x"),
    "status": RawServer(b"HTTP", b"1"),
    "body": RawServer(_head(LENGTH), b"x"),
    "chunks": RawServer(_head("Transfer-Encoding: chunked"), b"1\r\nx\r\n"),
}


@pytest.mark.parametrize("kind", list(DRIPS))
def test_drips_are_given_up(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "SLOW_SECONDS", 0.4)
    monkeypatch.setattr(connection, "HEADER_SECONDS", 0.6)
    server = RawServer(DRIPS[kind].head, DRIPS[kind].drip)
    with server as url, pytest.raises(DownloadError, match=r"no whole answer within|bytes arrived in"):
        transfer.fetch(Source(url, size=len(CONTENT)), tmp_path / "model.bin")
    assert not (tmp_path / "model.bin").exists()


@pytest.mark.parametrize("kind", list(DRIPS))
def test_drips_obey_cancel(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "SLOW_SECONDS", 1e9)
    monkeypatch.setattr(connection, "HEADER_SECONDS", 1e9)
    asked = iter(range(8))

    def cancel() -> None:
        if next(asked, None) is None:
            raise Cancelled

    server = RawServer(DRIPS[kind].head, DRIPS[kind].drip)
    with server as url, pytest.raises(Cancelled):
        transfer.fetch(Source(url, size=len(CONTENT)), tmp_path / "model.bin", check=cancel)


@pytest.mark.parametrize("seed", range(examples(100)))
def test_cuts_anywhere_give_the_whole_file(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    content = chance.randbytes(chance.randrange(1, 300_000))
    served = Served.of_hub(content, etag='"v1"', ranges=chance.random() < 0.7)
    served.cuts = [chance.randrange(len(content) + 1) for _ in range(2)]
    digest = Digest("sha256", hashlib.sha256(content).hexdigest()) if chance.random() < 0.5 else None
    with FileServer() as server:
        server.files["/a"] = served
        transfer.fetch(Source(f"{server.url}/a", size=len(content), digest=digest), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_a_part_file_of_the_users_own_is_not_touched(tmp_path: Path) -> None:
    """Another program's half of the same file, say: neither continued, nor replaced, nor removed."""
    mine = {"a.bin.part": b"mine", "a.bin.part.json": b"{}", "a.bin.part.meta": b"x"}
    for name, content in mine.items():
        (tmp_path / name).write_bytes(content)
    with FileServer() as server:
        server.files["/a"] = Served.of_hub(CONTENT, etag='"v1"', ranges=True)
        transfer.fetch(Source(f"{server.url}/a", size=len(CONTENT)), tmp_path / "a.bin")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {**mine, "a.bin": CONTENT}
