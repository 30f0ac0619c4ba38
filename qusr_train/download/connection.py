"""One HTTP connection to a public file: proxy, certificates, redirects, and errors in words.

On the standard library: ComfyUI brings neither httpx nor tenacity for certain, and huggingface_hub knows one host.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from ..errors import InputError
from ..http_answers import PASSING, seconds_to_wait, whole_number
from .digest import Digest

TIMEOUT = 15.0
"""Seconds of silence after which a connection counts as cut."""
HEADER_SECONDS = 60.0
"""How long a server may take for its headers, all redirects together."""


class DownloadError(InputError):
    """A file that could not be fetched; the message names the file and the remedy."""


class Cut(Exception):
    """A failure that may pass: another try goes on from what has arrived, `wait` seconds later if that is given."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class NothingLeft(Cut):
    """The server has no bytes to go on with; `total` is the length of its file, where it says so."""

    def __init__(self, reason: str, total: int | None = None, wait: float = 0.0) -> None:
        super().__init__(reason, wait)
        self.total = total


@dataclass(frozen=True)
class Source:
    """Where a file is, and what is known of it beforehand."""

    url: str
    token: str | None = field(default=None, repr=False)
    """Sent to the host of `url` only, never to where that host redirects."""
    size: int | None = None
    digest: Digest | None = None
    """Of this very file, known before asking for it."""
    digest_from: str = "published for this file"
    """In words: who says so."""
    etag_is_digest: bool = False
    """The host's ETag is a content hash (Hugging Face and its mirrors)."""
    remedy: str = ""
    """Added to errors: what else the user can do."""

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc

    def error(self, name: str, reason: str) -> DownloadError:
        return DownloadError(f"{name}: {reason} {self.remedy}".strip())


class Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects without taking the token to another host, and keeps the hash that Hugging Face adds."""

    def __init__(self) -> None:
        self.linked_etag: str | None = None

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        self.linked_etag = self.linked_etag or headers.get("X-Linked-Etag")
        if urlsplit(newurl).scheme not in ("https", urlsplit(req.full_url).scheme):
            raise urllib.error.URLError(f"refused a redirect from {req.type} to {urlsplit(newurl).scheme}")
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new is not None and origin(newurl) != origin(req.full_url):
            new.remove_header("Authorization")
        return new


def origin(url: str) -> tuple[str, str]:
    """Scheme and host with port."""
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def connect(source: Source, name: str, headers: dict[str, str]) -> tuple[Any, Digest | None]:
    """Ask for a file; returns the open answer and the content hash that the server states.

    Goes through the proxy that HTTP_PROXY, HTTPS_PROXY and NO_PROXY (or the system) name.

    Raises:
        Cut: may work a little later.
        NothingLeft: the server cannot go on from where the Range header says.
        DownloadError: will not work.
    """
    request = urllib.request.Request(
        source.url, headers={"User-Agent": "qusr", "Accept-Encoding": "identity", **headers}
    )
    if source.token:
        request.add_header("Authorization", f"Bearer {source.token}")
    redirects = Redirects()
    try:
        answer = _opener(redirects).open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            code, pause = error.code, seconds_to_wait(error.headers)
            length = error.headers.get("Content-Range", "").removeprefix("bytes */")
        if code == 416:
            total = whole_number(length)
            raise NothingLeft("the server cannot go on from here; starting again", total) from error
        if code in PASSING:
            reason = f"the server answered {code} {str(error.reason)[:100]}"
            raise Cut(reason, None if pause is None else min(pause, 60.0)) from error
        raise source.error(name, _refusal(code, source)) from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise source.error(
                name,
                f"the certificate of {source.host} is not trusted ({error.reason.verify_message}). Behind a company "
                "proxy, set SSL_CERT_FILE to its certificate.",
            ) from error
        raise Cut(f"{error.reason}{_through(source.url)}") from error
    except (OSError, ValueError, http.client.HTTPException) as error:  # ValueError: a redirect to what is no address
        raise Cut(f"{str(error)[:200] or type(error).__name__}{_through(source.url)}") from error
    if not source.etag_is_digest:
        return answer, None
    # A redirect to a storage host carries the hash; that host's own ETag means something else.
    own = answer.headers.get("ETag") if origin(answer.geturl()) == origin(source.url) else None
    return answer, Digest.parse(redirects.linked_etag or answer.headers.get("X-Linked-Etag") or own)


def connect_while(
    check: Callable[[], None], source: Source, name: str, headers: dict[str, str]
) -> tuple[Any, Digest | None]:
    """`connect` in a thread: a server that sends its headers one byte at a time would hold us beyond any timeout.

    Args:
        check: called while waiting; may raise to stop.
        source, name, headers: see `connect`.
    """
    found: list[Any] = []

    def ask() -> None:
        try:
            found.append(connect(source, name, headers))
        except Exception as error:  # raised again below, in the thread that can handle it
            found.append(error)

    thread = threading.Thread(target=ask, name="qusr-download", daemon=True)
    thread.start()
    end = time.monotonic() + HEADER_SECONDS
    while thread.is_alive():
        check()
        thread.join(0.1)
        if time.monotonic() > end:
            raise Cut(f"no whole answer within {HEADER_SECONDS:g} s")
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]


def read_json(url: str) -> Any:
    """A small JSON answer; one try.

    Raises:
        OSError, http.client.HTTPException, ValueError: no connection, refused, or not JSON.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "qusr"})
    with _opener(Redirects()).open(request, timeout=TIMEOUT) as answer:
        return json.load(answer)


def _opener(redirects: Redirects) -> urllib.request.OpenerDirector:
    """Trusts the system's certificates (a company's own among them), and certifi's where there are none (macOS)."""
    context = ssl.create_default_context()
    with contextlib.suppress(ImportError, OSError):
        import certifi

        context.load_verify_locations(certifi.where())
    return urllib.request.build_opener(redirects, urllib.request.HTTPSHandler(context=context))


def _through(url: str) -> str:
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if not proxy or urllib.request.proxy_bypass(parts.hostname or ""):
        return ""
    return f", through the proxy {urlsplit(proxy if '//' in proxy else '//' + proxy).hostname}"


def _refusal(code: int, source: Source) -> str:
    if code in (401, 403):
        token = "the token in HF_TOKEN was not accepted" if source.token else "it needs a login, or is gone"
        return (
            f"access refused ({code}) by {source.url}: {token}. Open its page in a browser, accept the terms if there "
            "are any, and set HF_TOKEN for a file on Hugging Face."
        )
    if code in (404, 410):
        return f"not found ({code}) at {source.url}; it was moved, or the mirror does not have it."
    return f"the server answered {code} for {source.url}."
