"""Downloading one file from a loopback server: whole, verified, and nothing beside it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from qusr_train.download.connection import Source
from qusr_train.download.transfer import fetch
from tests.support.file_server import FileServer, Served
from tests.support.weights_file import CONTENT, beside, hub, plain, sha256

pytestmark = pytest.mark.usefixtures("quick")


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
