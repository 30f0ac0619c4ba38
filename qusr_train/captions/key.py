"""The key of a caption server: where it comes from, who is given it, and that nobody reads it anywhere else."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator
from urllib.parse import quote, urlsplit

from .captioner import CaptionError

KEY_VARIABLE = "QUSR_API_KEY"
"""Environment variable with the key. Others must begin so: a workflow, which may come from a stranger, names them."""
HOSTS_VARIABLE = "QUSR_API_HOSTS"
"""Environment variable with the hosts, separated by commas, that may be given the key."""
HIDDEN = "[key]"
_TELLING = 12  # this many characters of a key in a row are hidden too
_SHORTEST = 6  # a shorter one is a placeholder such as EMPTY, and a word that captions need


def is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def key_for(address: str, variable: str = KEY_VARIABLE) -> str | None:
    """The key from the environment, if this host may have it.

    Raises:
        CaptionError: there is a key, but no host is named that may have it; or the variable is none of ours.
    """
    if not re.fullmatch(KEY_VARIABLE + "[A-Za-z0-9_]{0,100}", variable):  # the text may be a key: it is not repeated
        raise CaptionError(
            f"expected the name of an environment variable, {KEY_VARIABLE} or one that begins so, for "
            f"example {KEY_VARIABLE}_WORK; set it in the environment this program starts in, never type the key itself",
            field="key_variable",
        )
    key, hosts = os.environ.get(variable, "").strip(), os.environ.get(HOSTS_VARIABLE, "")
    if not key:
        return None
    if not all("!" <= character <= "~" for character in key):
        raise CaptionError(
            f"{variable} holds spaces or other characters that no key has; set it again", field="key_variable"
        )
    allowed = {host.strip().lower() for host in hosts.split(",") if host.strip()}
    parts = urlsplit(address)
    if (parts.hostname or "").lower() in allowed or parts.netloc.lower() in allowed:
        return key
    if is_loopback(parts.hostname or ""):
        return None
    raise CaptionError(
        f"{parts.hostname} is not in {HOSTS_VARIABLE}, so the key in {variable} is not sent to it. Set "
        f"{HOSTS_VARIABLE}={parts.hostname} in the environment this program starts in, if you trust this server",
        field="addresses",
    )


def hide_key(text: str, key: str | None) -> str:
    """A text from a server without the key: it must not come into an error, a caption, a log or a saved workflow.

    Servers echo the header they were sent, also as a part of an address or in base64. A long piece of the key is
    hidden like the whole.
    """
    if not key or len(key) < _SHORTEST:
        return text
    hidden = bytearray(len(text))
    lower = text.lower() if len(text.lower()) == len(text) else text  # a few letters grow when made small
    for form in _forms(key):
        size = min(len(form), _TELLING)
        for piece in {form[start : start + size] for start in range(len(form) - size + 1)}:
            found = lower.find(piece)
            while found >= 0:
                hidden[found : found + size] = b"\1" * size
                found = lower.find(piece, found + 1)
    return "".join(_replaced(text, hidden))


def _forms(key: str) -> set[str]:
    encoded = [base64.b64encode(text.encode()).decode() for text in (key, f"Bearer {key}", f":{key}")]
    written = {key, quote(key, safe=""), key.replace("\\", "\\\\").replace('"', '\\"')}
    return {form.lower() for form in {*written, *(form.rstrip("=") for form in encoded)} if len(form) >= _SHORTEST}


def _replaced(text: str, hidden: bytearray) -> Iterator[str]:
    before = 0
    for character, here in zip(text, hidden, strict=True):
        if not here:
            yield character
        elif not before:
            yield HIDDEN
        before = here
