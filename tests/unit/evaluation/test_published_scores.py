"""PSNR and SSIM against pyiqa's values of small crops, and against published per-image values, digit for digit.

The published images may not be copied into the repository: their test looks for `shared/data/drealsr-dev` in the
repository and the folders above it, or takes the folder that QUSR_PUBLISHED names.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from qusr_train.evaluation.evaluate import evaluate_folders
from qusr_train.evaluation.report import write_csv

ROOT = Path(__file__).resolve().parents[3]


def _data() -> Path | None:
    places = [folder / "shared" / "data" / "drealsr-dev" for folder in (ROOT, *ROOT.parents)]
    if "QUSR_PUBLISHED" in os.environ:
        places = [Path(os.environ["QUSR_PUBLISHED"])]
    return next((place for place in places if (place / "published.csv").is_file()), None)


def test_scores_are_pyiqas() -> None:
    """tests/golden/scores: crops of CC0 photos, reduced, through JPEG and enlarged; values by pyiqa 0.1.16."""
    golden = ROOT / "tests" / "golden" / "scores"
    report = evaluate_folders(golden / "prediction", golden / "truth", ("psnr", "ssim"))
    with (golden / "scores.csv").open(newline="") as file:
        expected = {row["image"]: row for row in csv.DictReader(file)}
    assert report.per_image.keys() == expected.keys()
    for image, scores in report.per_image.items():
        assert f"{scores['ssim']:.6f}" == expected[image]["ssim"]
        # pyiqa averages in float32, in an order that depends on the machine.
        assert scores["psnr"] == pytest.approx(float(expected[image]["psnr"]), abs=1e-5)


def test_every_printed_digit_is_the_published_one(tmp_path: Path) -> None:
    data = _data()
    if data is None:
        pytest.skip("no shared/data/drealsr-dev with published.csv; QUSR_PUBLISHED can name it")
    report = evaluate_folders(data / "prediction", data / "hr", ("psnr", "ssim"))
    write_csv(tmp_path / "ours.csv", {"OSEDiff": report})
    with (tmp_path / "ours.csv").open(newline="") as file:
        ours = {row["image"]: (row["psnr"], row["ssim"]) for row in csv.DictReader(file) if row["image"] != "mean"}
    with (data / "published.csv").open(newline="") as file:
        published = {Path(row["image"]).stem: (row["psnr_y"], row["ssim_y"]) for row in csv.DictReader(file)}
    assert len(published) == 20
    assert ours == published
