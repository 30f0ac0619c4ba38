"""The settings as flags: every one has help, its type and its default, and overrides the file."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import pytest

from qusr_train.cli.settings import add_arguments, field_help, from_arguments
from qusr_train.training.config import TrainConfig

REQUIRED = {"photos": "in", "out": "out"}
FIELDS = [field.name for field in dataclasses.fields(TrainConfig)]


def _parse(*flags: str) -> TrainConfig:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return from_arguments(parser.parse_args(list(flags)))


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_has_help(name: str) -> None:
    assert field_help()[name].endswith(".")


def test_help_lists_every_flag_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        _parse("--help")
    assert stop.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert all(f"--{name}" in shown for name in FIELDS)
    assert "Optimiser steps. (default: 12000)" in shown
    assert "cosine to 1 %" in shown


def test_flags_become_values_of_their_types() -> None:
    config = _parse("--photos", "p", "--out", "o", "--steps", "5", "--photo_factors", "1", "0.5", "--ema", "0")
    assert (config.photos, config.out, config.steps, config.ema) == ("p", "o", 5, 0.0)
    assert config.photo_factors == (1.0, 0.5)
    assert config == TrainConfig("p", "o", steps=5, ema=0.0, photo_factors=(1.0, 0.5))


def test_flags_override_the_file(tmp_path: Path) -> None:
    file = tmp_path / "train.json"
    file.write_text(json.dumps({**REQUIRED, "steps": 7, "rank": 2, "photo_factors": [0.5]}))
    config = _parse(str(file), "--steps", "9")
    assert config == TrainConfig("in", "out", steps=9, rank=2, photo_factors=(0.5,))


@pytest.mark.parametrize("content", [None, "{", ""])
def test_unreadable_config_file_is_named(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "train.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ValueError, match=r"config file .*train\.json: cannot be read"):
        _parse(str(file))


@pytest.mark.parametrize("content", [b"[1]", b"3", b"\xff\xfe\x00"])
def test_config_file_of_another_kind_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "train.json"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"config file .*train\.json"):
        _parse(str(file))
