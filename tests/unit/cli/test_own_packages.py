"""The command line in a Python with only the packages that ComfyUI brings."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import qusr_train
from qusr_train.cli.main import build_parser, main

ROOT = Path(__file__).resolve().parents[3]
WORK = ("restore", "evaluate", "degrade", "caption", "caption qwen", "convert", "export", "scale", "calibrate")
NEED = {
    "train base": "accelerate",
    "train qusr": "accelerate, peft",
    "train sd21": "accelerate, peft, diffusers",
    "ablation": "accelerate, peft",
}


def every_command() -> set[str]:
    actions = build_parser()._actions
    return next(set(action.choices) for action in actions if isinstance(action, argparse._SubParsersAction))


def test_every_command_runs_or_says_what_to_install() -> None:
    command = [sys.executable, "tests/support/bare.py", "-m", "tests.support.every_command"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    outcomes = json.loads(done.stdout)
    assert {name.split()[0] for name in outcomes} == every_command()
    assert "Traceback" not in done.stdout
    assert {name: outcomes[name] for name in WORK if outcomes[name][0]} == {}
    for name, packages in NEED.items():
        code, told = outcomes[name]
        assert code == 2
        assert f"error: training needs {packages}, which this Python does not have. Install: {sys.executable}" in told
        assert re.search(r" -m pip install 'accelerate>=1\.0'.* - Restoring, captions, and evaluation", told)
    for name in ("photos", "download"):
        code, told = outcomes[name]
        assert code == 2
        assert told.splitlines()[-1].startswith("error: ")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.strip() == f"qusr {qusr_train.__version__}"
