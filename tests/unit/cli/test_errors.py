"""Errors on the command line: a user's mistake is one line in the words of the flags, a bug keeps its traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from qusr_train import restore
from qusr_train.cli.main import main
from qusr_train.errors import InputError


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--pairs", "none", "--out", "OUT"], "error: --pairs none: expected the folders lr and hr in it"),
        (["train", "--photos", "p", "--out", "OUT", "--stage", "sd21", "--init", "none"], "error: --init none: exp"),
        (["caption", "FOLDER", "--out", "OUT", "--captioner", "server", "--model", "x"], "error: --server: is empty"),
        (["caption", "FOLDER", "--out", "OUT", "--captioner", "qwen", "--model", "OUT"], "error: --model: "),
        (["restore", "FOLDER", "OUT", "--device", "abacus"], "error: --device abacus: is not a device of this machine"),
        (["scale", "nano.safetensors", "OUT", "--residual", "0.5"], "error: weight file nano.safetensors: not found"),
        (["convert", "a.pkl", "b.bin"], "error: OUTPUT b.bin: give a name that ends in .safetensors"),
    ],
)
def test_error_names_the_flag(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").touch()
    places = {"OUT": str(tmp_path / "out"), "FOLDER": str(tmp_path / "photos")}
    arguments = [*arguments, "--lpips_weight", "0", "--precision", "no"] if arguments[0] == "train" else arguments
    assert main([places.get(argument, argument) for argument in arguments]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(message)
    assert shown.count("\n") == 1
    assert "base_url" not in shown
    assert "ComfyUI" not in shown


@pytest.mark.parametrize("arguments", [["--debug", "restore", "none", "x"], ["restore", "none", "x", "--debug"]])
def test_debug_shows_the_traceback(arguments: list[str]) -> None:
    with pytest.raises(InputError, match="INPUT none: no such file"):
        main(arguments)


def test_bug_does_not_look_like_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("a bug")

    (tmp_path / "a.png").touch()
    monkeypatch.setattr(restore, "restore_file", broken)
    with pytest.raises(ValueError, match="a bug"):
        main(["restore", str(tmp_path / "a.png"), str(tmp_path / "b.png")])
