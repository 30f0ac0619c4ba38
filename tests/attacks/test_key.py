"""A key is never in an error, caption, log, picture or saved workflow (issue 16, item 3)."""

from __future__ import annotations

import base64
import json
import logging
import traceback
from collections.abc import Iterator
from urllib.parse import quote

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qusr_train.captions.captioner import CaptionError
from qusr_train.captions.key import HIDDEN, HOSTS_VARIABLE, KEY_VARIABLE, hide_key
from qusr_train.captions.server import ServerCaptioner, parse_addresses
from tests.support.chat_server import ChatServer, Reply

KEY = "sk-Secret/0123456789+abcdefg=XYZ"
SPELLINGS = [
    KEY, quote(KEY, safe=""), base64.b64encode(KEY.encode()).decode(), base64.b64encode(f":{KEY}".encode()).decode(),
    base64.b64encode(f"Bearer {KEY}".encode()).decode(), KEY.upper(), KEY[:20], KEY[9:],
]  # fmt: skip


def pieces(text: str) -> list[str]:
    """What of the key, in any spelling, is in a text."""
    forms = [spelling[start : start + 12] for spelling in SPELLINGS for start in range(len(spelling) - 11)]
    return [form for form in forms if form.lower() in text.lower()]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    monkeypatch.setenv(HOSTS_VARIABLE, "127.0.0.1")
    with ChatServer() as running:
        yield running


def _said(text: str) -> bytes:
    return json.dumps({"choices": [{"message": {"content": text}}]}).encode()


def _replies(spelling: str) -> dict[str, Reply]:
    error = json.dumps({"error": {"message": f"bad key {spelling} given", "type": spelling}}).encode()
    far = json.dumps({"error": " " * 3980 + spelling}).encode()
    return {
        "caption": Reply(_said(f"A blurry photo of {spelling} at night.")),
        "escaped": Reply(_said("x").replace(b'"x"', b'"' + b"".join(b"\\u%04x" % ord(c) for c in spelling) + b'"')),
        "parts": Reply(json.dumps({"choices": [{"message": {"content": [{"text": f"A {spelling}"}]}}]}).encode()),
        "no chat": Reply(f"<html>{spelling}</html>".encode()),
        "cut": Reply(("x" * 190 + spelling).encode()),
        "denied": Reply(error, 401),
        "reason": Reply(b"", 401, reason=f"Unauthorized {spelling}"),
        "broken": Reply(error, 500, reason=spelling),
        "bad": Reply(error, 400),
        "unknown": Reply(error, 404),
        "far": Reply(far, 400),
        "plain": Reply(f"key {spelling}".encode(), 400),
        "elsewhere": Reply(b"", 307, headers={"Location": f"http://127.0.0.1:1/v1?key={spelling}"}),
        "version": Reply(b"", 429, headers={"Retry_After": "0"}, reason=spelling),
    }


@pytest.mark.parametrize("kind", list(_replies("")))
@pytest.mark.parametrize("spelling", SPELLINGS, ids=range(len(SPELLINGS)))
def test_what_a_server_echoes_is_hidden(
    server: ChatServer, kind: str, spelling: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    captioner = ServerCaptioner((server.address,), "qwen", backoff=0.0, timeout=10.0, tries=2, max_words=0)
    server.script = [_replies(spelling)[kind]] * 2
    try:
        seen = captioner.describe([torch.rand(3, 8, 8)], lambda count: None)[0].text
        assert HIDDEN in seen
    except CaptionError:
        seen = traceback.format_exc()  # ComfyUI logs this, with everything that it was raised from
    assert pieces(seen) == []
    assert pieces(caplog.text) == []
    assert server.asked[-1].headers["Authorization"] == f"Bearer {KEY}"


@settings(deadline=None)  # a busy machine is no failure
@given(before=st.text(), after=st.text(), key=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=6))
def test_hiding_leaves_the_rest(before: str, after: str, key: str) -> None:
    hidden = hide_key(before + key + after, key)
    assert key not in hidden
    assert HIDDEN in hidden
    assert hide_key("a plain text", "another-key-than-this") == "a plain text"


@pytest.mark.parametrize(
    "typed",
    [KEY, f"http://me:{KEY}@host/v1", f"ftp://me:{KEY}@host", f"http://host/v1?key={KEY}", f"http://host/v1#{KEY}",
     f"http:/{KEY}@host", f"http://[{KEY}", f"http://host:{KEY}/v1", f"http://a/v1,{KEY}"],
)  # fmt: skip
def test_a_key_typed_as_address_is_not_repeated(typed: str) -> None:
    with pytest.raises(CaptionError, match="addresses") as caught:
        parse_addresses(typed)
    assert pieces("".join(traceback.format_exception(caught.value))) == []
