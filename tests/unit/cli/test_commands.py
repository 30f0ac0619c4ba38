"""Command line: evaluate and train, help, and errors of files that cannot be used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qusr_train.checkpoints.nano_file import load_nano
from qusr_train.cli.main import main
from qusr_train.images.map_file import write_map

WriteImage = Callable[..., Path]


@pytest.fixture
def pair(tmp_path: Path, write_image: WriteImage) -> list[str]:
    """Flags for two folders with one equal picture each."""
    for folder in ("pred", "gt"):
        write_image(tmp_path / folder / "cat.png", (16, 12))
    return ["--pred", str(tmp_path / "pred"), "--gt", str(tmp_path / "gt")]


def test_evaluate_prints_and_writes_the_report(
    pair: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", *pair, "--json", str(tmp_path / "report.json")]) == 0
    assert capsys.readouterr().out.strip() == "1 images: psnr 80.0000, ssim 1.0000"
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["mean"] == pytest.approx({"psnr": 80.0, "ssim": 1.0})
    assert list(report["per_image"]) == ["cat"]


def test_evaluate_one_metric(pair: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", *pair, "--metrics", " psnr, "]) == 0
    assert capsys.readouterr().out.strip() == "1 images: psnr 80.0000"


def test_evaluate_unknown_metric(pair: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", *pair, "--metrics", "psnr,vmaf"]) == 2
    assert capsys.readouterr().err.startswith("error: --metrics: unknown metric 'vmaf'; known: psnr, ssim, lpips,")


def test_evaluate_maps(pair: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_map(tmp_path / "maps" / "cat.npy", np.full((12, 16), 3.0))
    assert main(["evaluate", *pair, "--maps", str(tmp_path / "maps"), "--csv", str(tmp_path / "all.csv")]) == 0
    assert capsys.readouterr().out.startswith("1 images: psnr 80.0000, ssim 1.0000, ause 0.0000, aurg 0.0000,")
    assert (tmp_path / "all.csv").read_text().startswith("method,image,psnr,ssim,ause,aurg,ause_9x9,ence,")
    pair[2:2] = [f"again={tmp_path / 'gt'}"]
    assert main(["evaluate", *pair, "--maps", str(tmp_path / "maps")]) == 2
    assert "error: --maps: 'maps' is no method of --pred (pred, again)" in capsys.readouterr().err
    assert main(["evaluate", *pair, "--maps", f"again={tmp_path / 'maps'}"]) == 0
    assert "ENCE (lower)" in capsys.readouterr().out


def test_evaluate_broken_image_is_one_line(pair: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pred" / "cat.png").write_bytes(b"not a picture")
    assert main(["evaluate", *pair]) == 2
    assert "cat.png" in capsys.readouterr().err


def test_evaluate_report_into_a_new_folder(pair: list[str], tmp_path: Path) -> None:
    assert main(["evaluate", *pair, "--json", str(tmp_path / "new" / "report.json")]) == 0
    assert (tmp_path / "new" / "report.json").is_file()


def test_restore_folder_into_a_file_is_one_line(
    tiny_file: Path, tmp_path: Path, write_image: WriteImage, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "in" / "a.png")
    (tmp_path / "file.txt").write_text("x")
    assert main(["restore", str(tmp_path / "in"), str(tmp_path / "file.txt"), "--model", str(tiny_file)]) == 2
    assert "file.txt" in capsys.readouterr().err


def test_restore_announces_the_file_it_writes(
    tiny_file: Path, tmp_path: Path, write_image: WriteImage, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_image(tmp_path / "in.png", (4, 4))
    code = main(["restore", str(source), str(tmp_path / "out.jpg"), "--model", str(tiny_file)])
    assert code == 2 or str(tmp_path / "out.png") in capsys.readouterr().out


def test_train_from_a_config_file(tmp_path: Path, write_image: WriteImage, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "photos" / "a.png", (70, 66))
    settings = {"photos": str(tmp_path / "photos"), "out": str(tmp_path / "out"), "patch": 64, "batch_size": 1}
    settings |= {"steps": 9, "workers": 0, "precision": "no", "photo_factors": [1.0]}
    (tmp_path / "train.json").write_text(json.dumps(settings))
    assert main(["train", str(tmp_path / "train.json"), "--steps", "1"]) == 0
    written = tmp_path / "out" / "base.safetensors"
    assert capsys.readouterr().out.strip() == str(written)
    assert load_nano(written).training["base"]["steps"] == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "error: missing setting out, photos"),
        (["--photos", "p", "--out", "o", "--patch", "100"], "error: --patch: must be a multiple of 16"),
        (["none.json"], "error: config file none.json: cannot be read"),
    ],
)
def test_train_errors_are_one_line(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *flags]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(message)
    assert shown.count("\n") == 1


@pytest.mark.parametrize("command", ["restore", "evaluate", "train", "photos"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"qusr_train {command}" in capsys.readouterr().out


def test_no_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert "COMMAND" in capsys.readouterr().err
