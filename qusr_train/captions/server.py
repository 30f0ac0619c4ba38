"""Captions from a server that speaks OpenAI's chat completions: vLLM, Ollama, llama.cpp and others.

On the standard library, as `download/connection.py` says.
"""

from __future__ import annotations

import base64
import http.client
import json
import logging
import os
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from PIL import Image
from torch import Tensor

from ..http_answers import PASSING, seconds_to_wait
from ..images.write import QUICK, png_bytes, to_picture
from .captioner import Caption, CaptionError, Progress
from .instruction import INSTRUCTION, MAX_WORDS, request_for, tidy
from .key import KEY_VARIABLE, hide_key, is_loopback, key_for

log = logging.getLogger(__name__)

LONGEST_ANSWER = 1024 * 1024
LONGEST_SIDE = 1536  # pixels sent


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected POST would arrive as a GET without the picture; and the key must not travel on."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        where = newurl[:300]
        raise CaptionError(f"the server sends elsewhere ({code}); use its final address, {where}", field="addresses")


class _TryAgain(Exception):
    """May work later; `wait` seconds if the server says so."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


def parse_addresses(text: str | Sequence[str]) -> tuple[str, ...]:
    """Addresses such as http://127.0.0.1:8000/v1, separated by commas or spaces, without a trailing slash.

    Raises:
        CaptionError: none, or not http(s). What is wrong is not repeated: it may hold a password or key.
    """
    listed = text.replace(",", " ").split() if isinstance(text, str) else list(text)
    for number, address in enumerate(listed, 1):
        which = f"address {number} of {len(listed)}" if len(listed) > 1 else "this address"
        try:
            parts = urlsplit(address)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # brackets or a port that are none
            usable = False
        if usable and ("@" in parts.netloc or parts.query or parts.fragment):
            raise CaptionError(
                f"{which} must not hold a password or key, which would be saved with it; set {KEY_VARIABLE} in the "
                "environment instead",
                field="addresses",
            )
        if not usable or not all("!" <= character <= "~" for character in address) or len(address) > 2000:
            raise CaptionError(f"{which} is none; expected one like http://127.0.0.1:8000/v1", field="addresses")
    if not listed:
        raise CaptionError(
            "is empty; give the server's address, for example http://127.0.0.1:8000/v1", field="addresses"
        )
    return tuple(address.rstrip("/").removesuffix("/chat/completions") for address in listed)


def picture_url(image: Tensor) -> str:
    """(3, H, W) in [0, 1] as a data address: PNG, which adds no compression of its own to what is judged."""
    picture = to_picture(image)
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    return "data:image/png;base64," + base64.b64encode(png_bytes(picture, QUICK)).decode()


@dataclass(frozen=True)
class ServerCaptioner:
    """Asks one or more servers, several pictures at once."""

    addresses: tuple[str, ...]
    """Base addresses, from `parse_addresses`; a picture that one cannot answer goes to the next."""
    model: str
    instruction: str = INSTRUCTION
    max_words: int = MAX_WORDS
    seed: int = 0
    timeout: float = 120.0
    """Seconds for one answer."""
    tries: int = 4
    workers: int = 4
    """Pictures asked about at once, per address."""
    backoff: float = 1.0
    """Seconds before the second try; doubled for every further one."""
    key_variable: str = KEY_VARIABLE
    """Name of the environment variable with the key, see `key_for`."""

    @property
    def identity(self) -> str:
        # Not the address: the same model says the same at home and in the office.
        return f"server {self.model} seed {self.seed}: {request_for(self.instruction, self.max_words)}"

    def describe(self, images: Sequence[Tensor], progress: Progress) -> list[Caption]:
        """See `captioners.Captioner`; `progress` is also called with 0 while waiting."""
        if not self.model.strip():
            raise CaptionError("is empty; give the name under which the server knows its model", field="model")
        stop = threading.Event()
        pool = ThreadPoolExecutor(min(len(images), self.workers * len(self.addresses)) or 1, "qusr-caption")
        asked = [pool.submit(self._ask, image, number, stop) for number, image in enumerate(images)]
        waiting: set[Future[str]] = set(asked)
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                progress(len(done))
            return [Caption(tidy(future.result(), self.max_words)) for future in asked]
        finally:
            # Not waited for: a Cancel must not hang on a server that is silent.
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def _ask(self, image: Tensor, number: int, stop: threading.Event) -> str:
        body = json.dumps(
            {
                "model": self.model,
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": request_for(self.instruction, self.max_words)},
                            {"type": "image_url", "image_url": {"url": picture_url(image)}},
                        ],
                    }
                ],
                "temperature": 0,
                "seed": self.seed,
                "max_tokens": 4 * self.max_words + 64 if self.max_words else 1024,
                "stream": False,
            }
        ).encode()
        reason = ""
        for attempt in range(self.tries):
            if stop.is_set():
                raise CaptionError("stopped")
            address = self.addresses[(number + attempt) % len(self.addresses)]
            try:
                return _post(address, body, self.model, self.timeout, stop.is_set, self.key_variable)
            except _TryAgain as error:
                reason = f"{address}: {error}"
                pause = error.wait if error.wait is not None else self.backoff * 2**attempt
                log.info("caption server %s; try %d of %d", reason, attempt + 1, self.tries)
                if attempt + 1 < self.tries:
                    stop.wait(min(pause, 60.0))
        raise CaptionError(f"no caption after {self.tries} tries. {reason}", field="addresses")


def _post(address: str, body: bytes, model: str, timeout: float, stopped: Callable[[], bool], variable: str) -> str:
    """One request; the text of the answer, without the key if the server repeats it.

    Raises:
        _TryAgain: may work later.
        CaptionError: will not.
    """
    key = key_for(address, variable)
    try:
        return hide_key(_exchange(address, body, model, timeout, stopped, variable, key), key)
    except _TryAgain as error:  # not "from error": a log shows what came before, and that holds the server's words
        raise _TryAgain(hide_key(str(error), key), error.wait) from None
    except CaptionError as error:
        raise CaptionError(hide_key(error.reason, key), error.field, error.value) from None


def _exchange(
    address: str, body: bytes, model: str, timeout: float, stopped: Callable[[], bool], variable: str, key: str | None
) -> str:
    headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "qusr"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
    if is_loopback(urlsplit(address).hostname or ""):
        handlers.append(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + timeout
    request = urllib.request.Request(f"{address}/chat/completions", body, headers)
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=timeout) as answer:
            content = b""
            while chunk := answer.read1(65536):
                content += chunk
                if len(content) > LONGEST_ANSWER:
                    raise CaptionError(
                        f"{address} answers without end; is it a chat completions server?", field="addresses"
                    )
                if time.monotonic() > deadline or stopped():
                    raise TimeoutError
            if answer.length:
                raise _TryAgain("the answer was cut")
    except urllib.error.HTTPError as error:
        with error:
            raise _refusal(error, address, model, variable, key) from error
    except TimeoutError as error:
        raise _TryAgain(
            f"no answer within {timeout:g} s; raise timeout if the model is slow or still loading"
        ) from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise _TryAgain(f"no answer within {timeout:g} s") from error
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise CaptionError(
                f"the certificate of {address} is not trusted ({error.reason})", field="addresses"
            ) from error
        if isinstance(error.reason, ConnectionRefusedError):
            raise _TryAgain("nothing listens there; is the server started, and are address and port right?") from error
        raise _TryAgain(str(error.reason)) from error
    except (OSError, http.client.HTTPException) as error:
        raise _TryAgain(f"the connection was cut ({error or type(error).__name__})") from error
    return _text_of(content, key)


def _text_of(content: bytes, key: str | None) -> str:
    try:
        answer = json.loads(content)
        text = answer["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        shown = hide_key(content.decode(errors="replace"), key)[:200]
        raise _TryAgain(f"not a chat completion: {shown!r}") from error
    if isinstance(text, list):  # content in parts
        parts = [part.get("text") for part in text if isinstance(part, dict)]
        text = "".join(part for part in parts if isinstance(part, str))
    if not isinstance(text, str) or not tidy(text, 0):
        raise _TryAgain("the model answered nothing; it may be a model that cannot see pictures")
    return text


def _refusal(error: urllib.error.HTTPError, address: str, model: str, variable: str, key: str | None) -> Exception:
    """An HTTP error in words."""
    try:
        said = error.read(65536).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException):
        said = ""
    try:
        told = json.loads(said)["error"]
        said = str(told["message"] if isinstance(told, dict) else told)
    except (ValueError, LookupError, TypeError, RecursionError):
        pass
    said = " ".join(hide_key(said, key).split())[:300]
    reason = "".join(c if c.isprintable() else " " for c in hide_key(str(error.reason), key))[:100]
    if error.code in PASSING:
        return _TryAgain(f"{error.code} {reason} {said}".strip(), seconds_to_wait(error.headers))
    if error.code in (401, 403):
        how = (
            f"the key in {variable} was not accepted" if os.environ.get(variable) else f"it wants a key, set {variable}"
        )
        return CaptionError(f"{address} refused access ({error.code}): {how}. {said}", field="addresses")
    if error.code == 404:
        return CaptionError(
            f"{address} has no chat completions or no model {model!r}. {said} Most servers want an address that ends "
            "in /v1",
            field="addresses",
        )
    return CaptionError(f"{address} answered {error.code} {reason}: {said}", field="addresses")
