"""A caption cache in any state costs at most itself, and at most a second (issue 16, item 10)."""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from qusr_train.captions.cache import AT_THE_SCREEN, CaptionCache, caption_images, key_of
from qusr_train.captions.captioner import Caption, Progress
from tests.attacks.size import examples


class Says:
    """Always the same."""

    identity = "says"

    def describe(self, images: Sequence[Tensor], progress: Progress) -> list[Caption]:
        return [Caption("blurry", {"sharpness": 0.5}) for _ in images]


PICTURE = torch.full((3, 4, 4), 0.5)
KEY = key_of(PICTURE, Says.identity)
FRESH = [Caption("blurry", {"sharpness": 0.5})]


def _ask(path: Path) -> list[Caption]:
    return caption_images(Says(), [PICTURE], CaptionCache(path, patience=AT_THE_SCREEN))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    path = tmp_path / "captions.sqlite"
    CaptionCache(path).write({f"{number:064x}": Caption(f"caption {number}", {"n": 1.0}) for number in range(300)})
    assert _ask(path) == FRESH
    return path


@pytest.mark.parametrize("seed", range(examples(600, 20)))
def test_damage_anywhere_costs_only_the_cache(cache: Path, seed: int) -> None:
    """Bytes changed, cut off, put in or zeroed; the answer comes back, and afterwards the cache works again."""
    chance = random.Random(seed)
    content = bytearray(cache.read_bytes())
    kind, place = chance.randrange(4), chance.choice([chance.randrange(200), chance.randrange(len(content))])
    if kind == 0:
        for _ in range(chance.choice([1, 20, 500])):
            content[chance.randrange(len(content))] = chance.randrange(256)
    elif kind == 1:
        del content[place:]
    elif kind == 2:
        content[place:place] = chance.randbytes(chance.choice([1, 4096]))
    else:
        content[place : place + 4096] = bytes(4096)
    cache.write_bytes(content)
    answers = _ask(cache)
    assert len(answers) == 1
    assert isinstance(answers[0].text, str)
    assert answers[0].text
    _ask(cache)  # sets aside what reading did not notice
    CaptionCache(cache).write({KEY: FRESH[0]})
    assert CaptionCache(cache).read([KEY]) == {KEY: FRESH[0]}


ROWS: list[tuple[Any, Any]] = [
    (b"\xff\xfe", None), ("", None), ("a", "{"), ("a", "[" * 99_999), ("a", "[1]"),
    ("a", '{"x": "y"}'), ("a", b"\xff"), ("a", 7), ("a", "1" * 200_000), (sqlite3.Binary(b"x"), "{}"),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
def test_rows_that_are_not_ours_are_asked_anew(cache: Path, row: tuple[Any, Any]) -> None:
    with sqlite3.connect(cache) as connection:
        connection.execute("UPDATE captions SET text = ?, numbers = ? WHERE key = ?", (*row, KEY))
    assert _ask(cache) == FRESH


def test_text_that_is_no_utf8_is_asked_anew(cache: Path) -> None:
    with sqlite3.connect(cache) as connection:
        connection.execute("UPDATE captions SET text = CAST(x'ff80' AS TEXT) WHERE key = ?", (KEY,))
    assert _ask(cache) == FRESH


@pytest.mark.parametrize(
    "schema",
    ["CREATE TABLE captions (x)", "CREATE VIEW captions AS SELECT 1 AS key, 2 AS text", "CREATE TABLE other (x)"],
)
def test_another_schema_is_set_aside(tmp_path: Path, schema: str) -> None:
    path = tmp_path / "captions.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute(schema)
    assert _ask(path) == FRESH
    assert CaptionCache(path).read([KEY]) == {KEY: FRESH[0]}


def test_a_pipe_a_folder_and_a_full_device_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "pipe", tmp_path / "folder", Path("/dev/full")):
        assert _ask(path) == FRESH


def test_a_locked_cache_is_not_waited_for(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite sleeps in C; what it is asked to wait is counted, which no busy machine can change."""
    waits: list[float] = []
    connect = sqlite3.connect

    def counting(path: Any, timeout: float = 5.0) -> sqlite3.Connection:
        waits.append(timeout)
        return connect(path, timeout=timeout)

    holder = connect(cache)
    holder.execute("BEGIN EXCLUSIVE")
    monkeypatch.setattr(sqlite3, "connect", counting)
    assert _ask(cache) == FRESH
    holder.rollback()
    assert sum(waits) <= 1.0
    assert not cache.with_name(cache.name + ".damaged").exists(), "locked is not damaged"
