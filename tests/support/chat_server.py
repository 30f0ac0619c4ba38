"""A real HTTP server on loopback that answers chat completions, and misbehaves on request."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image


@dataclass
class Asked:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def text(self) -> str:
        return self.body["messages"][0]["content"][0]["text"]

    @property
    def picture(self) -> Image.Image:
        """The picture that was sent, decoded."""
        address = self.body["messages"][0]["content"][1]["image_url"]["url"]
        return Image.open(io.BytesIO(base64.b64decode(address.removeprefix("data:image/png;base64,"))))


@dataclass
class Reply:
    """An answer word for word, for a script."""

    content: bytes
    code: int = 200
    reason: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    asked: Asked

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.send_error(405)

    def do_POST(self) -> None:
        owner = self.server.owner
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked = Asked(self.path, dict(self.headers), body)  # others are asked at the same time
        with owner.lock:
            owner.asked.append(self.asked)
            how = owner.script.pop(0) if owner.script else "answer"
            owner.busy += 1
            owner.busiest = max(owner.busiest, owner.busy)
        self.answering = True
        try:
            if isinstance(how, Reply):
                self._give(how.code, how.content, how.reason, **how.headers)
            else:
                getattr(self, f"_{how}")()
        finally:
            self._done()

    def _done(self) -> None:
        """Before the answer's bytes: who reads them may ask again before this thread goes on."""
        owner = self.server.owner
        with owner.lock:
            owner.busy -= self.answering
            self.answering = False

    def _give(self, code: int, content: bytes, reason: str | None = None, **headers: str) -> None:
        self._done()
        self.send_response(code, reason)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _answer(self) -> None:
        time.sleep(self.server.owner.delay)
        width, height = self.asked.picture.size if "messages" in self.asked.body else (0, 0)
        text = self.server.owner.text or f"A picture of {width} x {height}."
        self._give(200, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode())

    def _slow(self) -> None:
        """Silent until the test ends."""
        self.server.owner.gate.wait(30)
        self.close_connection = True

    def _drip(self) -> None:
        """A byte at a time, so that no single read times out."""
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        while not self.server.owner.gate.wait(0.05):
            try:
                self.wfile.write(b" ")
            except OSError:
                break
        self.close_connection = True

    def _cut(self) -> None:
        """Half an answer."""
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b'{"choices": [{"mess')
        self.close_connection = True

    def _drop(self) -> None:
        """No answer at all."""
        self.close_connection = True

    def _malformed(self) -> None:
        self._give(200, b"<html>It works!</html>")

    def _deep(self) -> None:
        self._give(200, b"[" * 200_000)  # deeper than Python's own limit

    def _other_shape(self) -> None:
        self._give(200, b'{"choices": []}')

    def _empty(self) -> None:
        self._give(200, b'{"choices": [{"message": {"content": "<think>hm</think> "}}]}')

    def _busy(self) -> None:
        self._give(429, b'{"error": {"message": "too many requests"}}', Retry_After="0")

    def _broken(self) -> None:
        self._give(500, b'{"error": "out of memory"}')

    def _bad_request(self) -> None:
        self._give(400, b'{"error": {"message": "this model takes no images"}}')

    def _denied(self) -> None:
        self._give(401, b"")

    def _unknown(self) -> None:
        self._give(404, b'{"error": {"message": "model not found"}}')

    def _redirect(self) -> None:
        self._give(307, b"", Location="http://127.0.0.1:1/v1")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    owner: ChatServer


@dataclass
class ChatServer:
    """Use as a context manager; `address` goes into base_url."""

    script: list[str | Reply] = field(default_factory=list)
    """How the next requests are treated: the handler's method names without underscore; then "answer". Or a `Reply`."""
    text: str = ""
    """What is answered; empty: the size of the picture."""
    delay: float = 0.0
    asked: list[Asked] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    busy: int = 0
    busiest: int = 0

    def __enter__(self) -> ChatServer:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"
