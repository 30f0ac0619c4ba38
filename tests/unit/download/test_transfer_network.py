"""Proxies, certificates and HTTPS on loopback."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from qusr_train.download.connection import DownloadError, Source
from qusr_train.download.transfer import fetch
from tests.support.file_server import FileServer, Served

CONTENT = b"weights" * 50_000


pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as running:
        running.files["/w"] = Served.of_hub(CONTENT)
        yield running


@pytest.fixture
def proxy() -> Iterator[FileServer]:
    with FileServer(proxy=True) as running:
        yield running


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for localhost, key and certificate in one file."""
    if not shutil.which("openssl"):
        pytest.skip("needs the openssl command")
    folder = tmp_path_factory.mktemp("certificate")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    both = folder / "both.pem"
    both.write_bytes((folder / "key.pem").read_bytes() + (folder / "cert.pem").read_bytes())
    return both


@pytest.fixture
def secure(certificate: Path) -> Iterator[FileServer]:
    with FileServer(certificate=certificate) as running:
        running.files["/w"] = Served.of_hub(CONTENT)
        yield running


def dead_port() -> int:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return closed.getsockname()[1]


def hub(server: FileServer, **options: object) -> Source:
    return Source(server.url + "/w", etag_is_digest=True, **options)  # type: ignore[arg-type]


def test_http_proxy_is_used(
    server: FileServer, proxy: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    assert "verified with the sha256" in fetch(hub(server), tmp_path / "w")
    assert [path for path, _ in proxy.requests] == [server.url + "/w"]


def test_no_proxy_is_honoured(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{dead_port()}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert "verified with the sha256" in fetch(hub(server), tmp_path / "w")


def test_a_dead_proxy_is_named_without_its_password(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://me:secret@127.0.0.1:{dead_port()}")
    with pytest.raises(DownloadError, match=r"through the proxy 127\.0\.0\.1") as caught:
        fetch(hub(server), tmp_path / "w")
    assert "secret" not in str(caught.value)


def test_https_through_a_proxy_tunnel(
    secure: FileServer, proxy: FileServer, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    assert "verified with the sha256" in fetch(hub(secure, token="hf_secret"), tmp_path / "w")
    path, headers = proxy.requests[0]
    assert path == secure.url.removeprefix("https://")
    assert "hf_secret" not in str(headers)
    assert secure.headers("Authorization") == ["Bearer hf_secret"]


def test_a_certificate_that_is_not_trusted(secure: FileServer, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"w: the certificate of localhost:\d+ is not trusted.*SSL_CERT_FILE"):
        fetch(hub(secure), tmp_path / "w")
    assert list(tmp_path.iterdir()) == []


def test_https_is_not_left_for_http(
    secure: FileServer, server: FileServer, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    secure.files["/w"] = Served.of_hub(CONTENT, redirect=server.url + "/w")
    with pytest.raises(DownloadError, match="refused a redirect from https to http"):
        fetch(hub(secure), tmp_path / "w")
    assert not server.requests
