"""A real HTTP server on loopback that behaves as badly as the internet does, and a forward proxy."""

from __future__ import annotations

import hashlib
import http.client
import select
import socket
import ssl
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


@dataclass
class Served:
    """One file and how it misbehaves."""

    content: bytes
    etag: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    """Further headers of the answer (or of the redirect)."""
    cuts: list[int] = field(default_factory=list)
    """For each of the next answers: bytes of its body after which the connection is cut."""
    codes: list[int] = field(default_factory=list)
    """Status codes of the next answers, before the file is given."""
    ranges: bool = True
    if_range: bool = True
    redirect: str | None = None
    chunked: bool = False
    gate: threading.Event | None = None
    """Held back after the first 64 KB until this is set."""
    at_gate: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def of_hub(cls, content: bytes, **options: Any) -> Served:
        """As Hugging Face states the hash of a large file."""
        return cls(content, headers={"X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"'}, **options)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.server.owner.requests.append((self.path, dict(self.headers)))
        served = self.server.owner.files.get(self.path.split("?")[0])
        if served is None:
            self._short(404)
        elif served.codes:
            self._short(served.codes.pop(0), served.headers)
        elif served.redirect:
            self._short(302, {"Location": served.redirect, **served.headers})
        else:
            self._give(served)

    def _short(self, code: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _give(self, served: Served) -> None:
        wanted, start, size = self.headers.get("Range"), 0, len(served.content)
        condition = self.headers.get("If-Range")
        holds = condition is None or condition == served.etag or not served.if_range
        if wanted and served.ranges and holds:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= size:
                return self._short(416, {"Content-Range": f"bytes */{size}"})
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        if served.etag:
            self.send_header("ETag", served.etag)
        if "Content-Type" not in served.headers:
            self.send_header("Content-Type", "application/octet-stream")
        for name, value in served.headers.items():
            self.send_header(name, value)
        if served.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif "Content-Length" not in served.headers:
            self.send_header("Content-Length", str(size - start))
        self.end_headers()
        self._send(served, served.content[start:])
        return None

    def _send(self, served: Served, body: bytes) -> None:
        cut = served.cuts.pop(0) if served.cuts else None
        body = body if cut is None else body[:cut]
        try:
            for position in range(0, len(body), 1 << 16):
                if served.gate and position:
                    served.at_gate.set()
                    served.gate.wait(60)
                block = body[position : position + (1 << 16)]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(block), block) if served.chunked else block)
                self.server.owner.sent += len(block)
            if served.chunked and cut is None:
                self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.close_connection = True
        if cut is not None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)


class _Proxy(BaseHTTPRequestHandler):
    """Forwards plain requests, and tunnels CONNECT."""

    server: _Server

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.server.owner.requests.append((self.path, dict(self.headers)))
        parts = urlsplit(self.path)
        connection = http.client.HTTPConnection(parts.netloc, timeout=30)
        connection.request("GET", parts.path, headers={k: v for k, v in self.headers.items() if k != "Host"})
        answer = connection.getresponse()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.read())
        connection.close()

    def do_CONNECT(self) -> None:
        self.server.owner.requests.append((self.path, dict(self.headers)))
        host, port = self.path.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=30) as far:
            self.send_response(200)
            self.end_headers()
            ends = {self.connection: far, far: self.connection}
            while True:
                for near in select.select(list(ends), [], [], 30)[0]:
                    data = near.recv(1 << 16)
                    if not data:
                        self.close_connection = True
                        return
                    ends[near].sendall(data)


class _Server(ThreadingHTTPServer):
    owner: FileServer
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that goes away is part of the tests


class FileServer:
    """`with FileServer() as server: server.files["/a"] = Served(b"...")`; `proxy=True` makes it a forward proxy."""

    def __init__(self, proxy: bool = False, certificate: Path | None = None) -> None:
        self.files: dict[str, Served] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.sent = 0
        self._server = _Server(("127.0.0.1", 0), _Proxy if proxy else _Handler)
        self._server.owner = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self.url = f"https://localhost:{self._server.server_port}"

    def headers(self, name: str) -> list[str | None]:
        """A header of every request so far."""
        return [headers.get(name) for _, headers in self.requests]

    def __enter__(self) -> FileServer:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        for served in self.files.values():
            if served.gate:
                served.gate.set()
        self._server.shutdown()
        self._server.server_close()
