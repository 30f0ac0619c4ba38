"""What is no download: refusals, lies, no room, no permission."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from qusr_train.download import transfer
from qusr_train.download.connection import DownloadError, Source
from qusr_train.download.transfer import fetch
from tests.support.file_server import FileServer, Served
from tests.support.weights_file import CONTENT, OTHER, beside, hub, plain, sha256

pytestmark = pytest.mark.usefixtures("quick")


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
