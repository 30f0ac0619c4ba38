"""PSNR and SSIM against published per-image values, digit for digit.

The images may not be copied into the repository: the test looks for `shared/data/drealsr-dev` in the
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
