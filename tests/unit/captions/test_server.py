"""The server captioner against a real HTTP server on loopback, well and badly behaved."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from qusr_train.captions.captioner import CaptionError
from qusr_train.captions.instruction import INSTRUCTION
from qusr_train.captions.key import HOSTS_VARIABLE, KEY_VARIABLE, key_for
from qusr_train.captions.server import ServerCaptioner, parse_addresses
from tests.support.chat_server import ChatServer


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer() as running:
        yield running


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    monkeypatch.delenv(HOSTS_VARIABLE, raising=False)


def captioner(*servers: ChatServer, **options: object) -> ServerCaptioner:
    plain = ServerCaptioner(tuple(s.address for s in servers), "qwen", backoff=0.01, timeout=10.0)
    return dataclasses.replace(plain, **options)  # type: ignore[arg-type]


def picture(width: int = 20, height: int = 10) -> Tensor:
    return torch.rand(3, height, width)


def ask(one: ServerCaptioner, *pictures: Tensor) -> list[str]:
    return [caption.text for caption in one.describe(pictures or [picture()], lambda count: None)]


def test_each_picture_gets_its_own_answer_in_order(server: ChatServer) -> None:
    pictures = [picture(width) for width in (30, 40, 50, 60, 70)]
    assert ask(captioner(server), *pictures) == [f"A picture of {w} x 10." for w in (30, 40, 50, 60, 70)]


def test_the_request_is_a_chat_completion_with_the_picture_unchanged(server: ChatServer) -> None:
    one = picture()
    ask(captioner(server, seed=5), one)
    (asked,) = server.asked
    assert asked.path == "/v1/chat/completions"
    assert asked.body["model"] == "qwen"
    assert (asked.body["temperature"], asked.body["seed"], asked.body["stream"]) == (0, 5, False)
    assert asked.text == f"{INSTRUCTION} Answer in at most 60 words."
    expected = (one * 255).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(np.asarray(asked.picture), expected)
    assert "Authorization" not in asked.headers


def test_progress_counts_every_picture(server: ChatServer) -> None:
    counts: list[int] = []
    captioner(server).describe([picture()] * 5, counts.append)
    assert sum(counts) == 5


def test_pictures_go_to_all_servers_at_once() -> None:
    with ChatServer(delay=0.2) as first, ChatServer(delay=0.2) as second:
        assert len(ask(captioner(first, second, workers=2), *[picture() for _ in range(8)])) == 8
        assert len(first.asked) == len(second.asked) == 4
        assert first.busiest == second.busiest == 2


@pytest.mark.parametrize("trouble", ["busy", "broken", "cut", "drop", "malformed", "deep", "other_shape", "empty"])
def test_passing_trouble_is_tried_again(server: ChatServer, trouble: str) -> None:
    server.script = [trouble, trouble]
    assert ask(captioner(server)) == ["A picture of 20 x 10."]
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("busy", "429 .* too many requests"),
        ("broken", "500 .* out of memory"),
        ("cut", "cut"),
        ("drop", "cut"),
        ("malformed", "not a chat completion: '<html>It works!"),
        ("deep", "not a chat completion"),
        ("empty", "answered nothing"),
    ],
)
def test_lasting_trouble_is_told_after_the_last_try(server: ChatServer, trouble: str, message: str) -> None:
    server.script = [trouble] * 9
    with pytest.raises(CaptionError, match=f"addresses: no caption after 3 tries.*{message}"):
        ask(captioner(server, tries=3))
    assert len(server.asked) == 3


@pytest.mark.parametrize("trouble", ["slow", "drip"])
def test_a_server_that_does_not_finish_is_given_up(server: ChatServer, trouble: str) -> None:
    server.script = [trouble] * 9
    with pytest.raises(CaptionError, match=r"no answer within 0\.3 s"):
        ask(captioner(server, tries=2, timeout=0.3))
    assert len(server.asked) == 2


def test_another_server_steps_in() -> None:
    with ChatServer(script=["broken"] * 99) as broken, ChatServer() as well:
        assert len(ask(captioner(broken, well), *[picture() for _ in range(4)])) == 4
        assert len(well.asked) == 4


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("bad_request", "answered 400 .*this model takes no images"),
        ("denied", f"refused access .401.: it wants a key, set {KEY_VARIABLE}"),
        ("unknown", "no model 'qwen'.*model not found"),
        ("redirect", "sends elsewhere .307.; use its final address, http://127.0.0.1:1/v1"),
    ],
)
def test_what_will_not_pass_is_not_tried_again(server: ChatServer, trouble: str, message: str) -> None:
    server.script = [trouble] * 9
    with pytest.raises(CaptionError, match=message):
        ask(captioner(server))
    assert len(server.asked) == 1


def test_nobody_listens() -> None:
    with ChatServer() as gone:
        address = gone.address
    with pytest.raises(CaptionError, match="nothing listens there"):
        ask(ServerCaptioner((address,), "qwen", tries=2, backoff=0.01))


def test_cancel_does_not_wait_for_a_silent_server(server: ChatServer) -> None:
    class Cancelled(BaseException):
        pass

    def cancel(count: int) -> None:
        raise Cancelled

    server.script = ["slow"] * 9
    started = threading.Event()
    with pytest.raises(Cancelled):
        captioner(server, timeout=30.0).describe([picture()] * 3, cancel)
    started.set()
    assert not server.gate.is_set()  # the server is still silent, and we are back


def test_the_key_goes_only_to_named_hosts(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    ask(captioner(server))
    assert "Authorization" not in server.asked[-1].headers  # loopback, not named
    with pytest.raises(CaptionError, match=r"stranger\.example is not in QUSR_API_HOSTS") as caught:
        key_for("https://stranger.example/v1")
    assert "secret" not in str(caught.value)
    monkeypatch.setenv(HOSTS_VARIABLE, "api.example, 127.0.0.1")
    ask(captioner(server))
    assert server.asked[-1].headers["Authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("http://a:1/v1/", ("http://a:1/v1",)),
        ("http://a:1/v1, https://b/v1", ("http://a:1/v1", "https://b/v1")),
        ("http://a/v1/chat/completions", ("http://a/v1",)),
    ],
)
def test_addresses(given: str, expected: tuple[str, ...]) -> None:
    assert parse_addresses(given) == expected


@pytest.mark.parametrize("given", ["", "  ", "127.0.0.1:8000", "file:///etc/passwd", "http://me:word@host/v1"])
def test_bad_addresses_are_named(given: str) -> None:
    with pytest.raises(CaptionError, match="addresses"):
        parse_addresses(given)


def test_a_missing_model_name_is_told(server: ChatServer) -> None:
    with pytest.raises(CaptionError, match="model: is empty"):
        ask(captioner(server, model=" "))


def test_long_answers_are_cut_at_a_sentence(server: ChatServer) -> None:
    server.text = "<think>Let me see.</think> **Blurry** and noisy, I fear. " + "Dim light " * 20
    assert ask(captioner(server, max_words=8)) == ["Blurry and noisy, I fear."]


def test_identity_says_what_the_text_depends_on() -> None:
    plain = ServerCaptioner(("http://a/v1",), "qwen")
    assert dataclasses.replace(plain, addresses=("http://b/v1",), timeout=1.0).identity == plain.identity
    for change in ({"model": "x"}, {"instruction": "Say."}, {"max_words": 9}, {"seed": 1}):
        assert dataclasses.replace(plain, **change).identity != plain.identity  # type: ignore[arg-type]


def test_threads_end(server: ChatServer) -> None:
    ask(captioner(server), *[picture() for _ in range(3)])
    for _ in range(50):
        if not [t for t in threading.enumerate() if t.name.startswith("qusr-caption")]:
            break
        time.sleep(0.1)
    assert not [t for t in threading.enumerate() if t.name.startswith("qusr-caption")]
