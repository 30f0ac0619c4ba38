"""A ComfyUI with only its own packages: no peft, accelerate, diffusers, lpips."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_every_node_runs_or_says_what_to_install() -> None:
    command = [sys.executable, "tests/support/bare.py", "-m", "tests.support.every_node"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    outcomes = json.loads(done.stdout.strip().splitlines()[-1])
    told = outcomes.pop("QUSRTrain")
    assert outcomes == dict.fromkeys(outcomes, "")
    assert len(outcomes) >= 20
    assert "training needs accelerate, peft, which this Python does not have" in told
    assert f"{sys.executable} -m pip install 'accelerate>=1.0' peft - Restoring, captions" in told


def test_four_bits_say_what_they_need_before_anything_is_loaded(node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    told = node.QUSRQwenPrompt.validate_inputs("Qwen2.5-VL-7B-Instruct", True, "4 bit")
    assert "quantization: 4 bit needs accelerate, bitsandbytes" in told
    assert "-m pip install 'accelerate>=1.0' bitsandbytes - none works without." in told
