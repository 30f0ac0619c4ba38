"""Training that the kernel kills ends as if nothing had happened; `make attack` does it 200 times."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.attacks.size import examples

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills are forked, which Windows cannot")
def test_kills_at_any_moment_lose_nothing() -> None:
    """In a process of its own: a fork of this one would carry ComfyUI and its threads along."""
    command = [sys.executable, "-m", "tests.attacks.long", "kills", "--count", str(examples(200, 60))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
