"""Tables over several methods, the HTML page, and pyiqa's metrics with and without their weights."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from qusr_train.cli.main import main
from qusr_train.evaluation import perceptual as iqa
from qusr_train.evaluation.evaluate import METRICS, evaluate_folders
from qusr_train.evaluation.fidelity import psnr, ssim
from qusr_train.evaluation.report import extreme_crops, html_report, markdown_table
from qusr_train.images.read import read_exact


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """gt, and the methods `light` and `heavy` with little and much noise, two pictures each."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[0:72, 0:100]
    for stem, period in (("a", 5.0), ("b", 9.0)):
        truth = 0.5 + 0.3 * np.sin((x + y) / period)[..., None] * np.ones(3)
        for folder, amount in (("gt", 0.0), ("light", 0.02), ("heavy", 0.1)):
            picture = (truth + amount * random.standard_normal(truth.shape)).clip(0, 1)
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray((picture * 255).round().astype(np.uint8)).save(tmp_path / folder / f"{stem}.png")
    return tmp_path


def _evaluate(folders: Path, *flags: str) -> int:
    methods = [str(folders / "light"), f"old={folders / 'heavy'}"]
    return main(["evaluate", "--pred", *methods, "--gt", str(folders / "gt"), *flags])


def test_several_methods_make_a_table_with_the_best_in_bold(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _evaluate(folders) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| method | images | PSNR (higher) | SSIM (higher) |"
    assert lines[2].startswith("| light | 2 | **")
    assert lines[2].count("**") == 4
    assert lines[3].startswith("| old | 2 | 2")
    assert "**" not in lines[3]


def test_json_and_csv_hold_every_value(folders: Path) -> None:
    assert _evaluate(folders, "--json", str(folders / "r.json"), "--csv", str(folders / "r.csv")) == 0
    methods = json.loads((folders / "r.json").read_text())["methods"]
    rows = list(csv.DictReader((folders / "r.csv").open()))
    assert [(row["method"], row["image"]) for row in rows] == [
        ("light", "a"), ("light", "b"), ("light", "mean"), ("old", "a"), ("old", "b"), ("old", "mean"),
    ]  # fmt: skip
    expected = psnr(read_exact(folders / "heavy" / "b.png"), read_exact(folders / "gt" / "b.png"))
    assert methods["old"]["per_image"]["b"]["psnr"] == pytest.approx(expected)
    assert float(rows[4]["psnr"]) == pytest.approx(expected, abs=1e-6)


def test_two_methods_of_one_name_are_refused(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    same = [str(folders / "light"), str(folders / "x" / ".." / "light")]
    assert main(["evaluate", "--pred", *same, "--gt", str(folders / "gt")]) == 2
    assert "two methods are called 'light'" in capsys.readouterr().err


def test_html_report_stands_alone(folders: Path) -> None:
    reports = {"light": evaluate_folders(folders / "light", folders / "gt")}
    page = html_report(reports, {"light": folders / "light"}, folders / "gt", count=1)
    assert page.count("<img ") == 4  # truth and prediction of the worst and of the best image
    assert page.count("data:image/png;base64,") == 4
    assert "http" not in page
    assert "light: worst by PSNR" in page
    assert markdown_table(reports).count("\n") == 3


def test_crops_show_where_it_is_worst() -> None:
    truth = np.random.default_rng(0).random((64, 64, 3))
    prediction = truth.copy()
    prediction[40:, 40:] = 0.5
    crops = extreme_crops(prediction, truth, side=16)
    assert min(crops["worst"]) >= 40
    assert min(crops["best"]) < 32


def test_missing_partners_are_reported(folders: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folders / "light" / "b.png").rename(folders / "light" / "c.png")
    report = evaluate_folders(folders / "light", folders / "gt")
    assert list(report.per_image) == ["a"]
    assert "1 images have no partner and are left out (b)" in caplog.text
    assert "(c)" in caplog.text


def test_metrics_without_their_weights_are_named_and_left_out(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(iqa, "hub_folder", lambda: tmp_path)
    wanted = tuple(iqa.PYIQA_METRICS)
    report = evaluate_folders(folders / "light", folders / "gt", ("psnr", *wanted))
    assert list(report.mean) == ["psnr"]
    assert set(report.skipped) == set(wanted)
    for metric, reason in report.skipped.items():
        for file in METRICS[metric].files:
            assert file in reason
    assert "musiq skipped: pyiqa/musiq_koniq" in markdown_table({"light": report})


def test_niqe_reads_basicsrs_parameters(folders: Path) -> None:
    """The real NIQE of pyiqa; the statistics are made up, since the true file cannot be shipped."""
    for folder in ("light", "heavy", "gt"):
        for path in (folders / folder).iterdir():
            Image.open(path).resize((400, 288)).save(path)
    spread = np.random.default_rng(0).random((36, 36))
    parameters = {"mu_pris_param": np.ones((1, 36)), "cov_pris_param": spread @ spread.T + np.eye(36)}
    np.savez(folders / "niqe.npz", **parameters)
    scores = [
        evaluate_folders(folders / name, folders / "gt", ("niqe",), niqe=folders / "niqe.npz").mean["niqe"]
        for name in ("light", "heavy")
    ]
    assert all(np.isfinite(scores))
    assert scores[0] != scores[1]


def test_our_psnr_and_ssim_are_pyiqas(folders: Path) -> None:
    import pyiqa

    a, b = (read_exact(folders / name / "a.png") for name in ("heavy", "gt"))
    x, y = (torch.from_numpy(image).movedim(-1, 0)[None] for image in (a, b))
    for name, own in (("psnr", psnr), ("ssim", ssim)):
        theirs = pyiqa.create_metric(name, test_y_channel=True, color_space="ycbcr", device=torch.device("cpu"))
        assert own(a, b) == pytest.approx(theirs(x, y).item(), abs=1e-6)
