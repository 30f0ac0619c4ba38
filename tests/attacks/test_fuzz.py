"""Every node, called with values from its own schema: whole results or named errors (issue 16's proof)."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from qusr_train.captions.key import HOSTS_VARIABLE
from tests.attacks.fuzz import fuzz
from tests.attacks.size import examples
from tests.support import golden, tiny_nano

COUNT = "QUSR_FUZZ"
"""Environment variable: how many calls instead of the usual number; `QUSR_FUZZ_REPORT` is where figures go."""


@pytest.fixture
def models(folders: Path) -> Path:
    """The golden files of the family, a nano model, and two that are damaged, in models/qusr."""
    where = folders / "models" / "qusr"
    for path in (golden.GOLDEN / "checkpoints").glob("*.pkl"):
        shutil.copy(path, where)
    whole = tiny_nano.write(where / "tiny.safetensors").read_bytes()
    (where / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (where / "no.pkl").write_bytes(b"\x80\x02.")
    return where


def test_every_call_gives_a_whole_result_or_a_named_error(
    pack: Any, nano: Any, folders: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HOSTS_VARIABLE, "127.0.0.1")
    before = {path.name: path.stat().st_size for path in models.iterdir()}
    seen = fuzz(pack, nano, int(os.environ.get(COUNT, examples(10_000, 50))))
    if report := os.environ.get("QUSR_FUZZ_REPORT"):
        Path(report).write_text(json.dumps(vars(seen), indent=1), encoding="utf-8")
    assert seen.bad == []
    assert seen.ended["result"] > seen.ended.total() / 10
    assert [path.name for path in (folders / "victim").iterdir()] == ["secret.txt"]
    assert {path.name: path.stat().st_size for path in models.iterdir()} == before
    outside = {path.name for path in folders.iterdir()} - {"input", "output", "models", "user", "temp", "victim"}
    assert not outside
