"""Calibration of maps: known distributions come out right, and the model's file is written whole or not at all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from qusr_train.checkpoints.nano_file import load_nano
from qusr_train.cli.main import main
from qusr_train.errors import InputError
from qusr_train.evaluation.calibration import ERRORS, Measurement, least_pairs, rising_curve
from qusr_train.evaluation.reliability import Reliability
from qusr_train.model.map_calibration import DEFAULT_ERROR

WriteImage = Callable[..., Path]


def _picture(chance: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """|U| and errors whose mean is 12 sqrt(|U|) grey levels."""
    magnitude = chance.uniform(0.005, 0.5, (100, 100))
    return magnitude, chance.exponential(12 * np.sqrt(magnitude))


@pytest.fixture(scope="module")
def measured() -> Measurement:
    chance = np.random.default_rng(0)
    measurement = Measurement()
    for _ in range(30):
        measurement.add(*_picture(chance))
    return measurement


def test_map_without_a_unit_becomes_the_mean_error(measured: Measurement) -> None:
    calibration = measured.result("a test")
    u = torch.tensor([0.02, 0.1, 0.25, 0.45])
    torch.testing.assert_close(calibration.of_magnitude(u), 12 * u.sqrt(), rtol=0.05, atol=0)
    assert calibration.calibrated_on == "a test"
    fresh, error = _picture(np.random.default_rng(1))
    reliability = Reliability()
    reliability.add(calibration.of_magnitude(torch.from_numpy(fresh)).numpy(), error)
    assert reliability.ence() < 0.06


def test_trust_mask_keeps_its_promise_on_a_fresh_picture(measured: Measurement) -> None:
    calibration = measured.result("a test")
    assert [level.error for level in calibration.trust] == list(ERRORS)
    assert (np.diff([level.threshold for level in calibration.trust]) >= 0).all()
    level = calibration.trust_for(DEFAULT_ERROR)
    assert level is not None
    fresh, error = _picture(np.random.default_rng(2))
    trusted = calibration.of_magnitude(torch.from_numpy(fresh)).numpy() < level.threshold
    assert trusted.mean() == pytest.approx(level.share, abs=0.02)
    assert 0.03 < (error[trusted] > level.error).mean() <= 0.11
    assert (error[~trusted] > level.error).mean() > 0.2


def test_curve_rises_where_the_errors_do_not() -> None:
    reliability = Reliability()
    for magnitude, error in ((1.0, 2.0), (2.0, 6.0), (3.0, 4.0), (4.0, 8.0)):
        reliability.add(np.full(1000, magnitude * 127.5), np.full(1000, error))
    points = rising_curve(reliability)
    assert np.array(points) == pytest.approx(np.array([(1, 2), (2.5, 5), (4, 8)]))


def test_map_of_one_value_is_a_line_and_of_zeros_is_refused() -> None:
    reliability = Reliability()
    reliability.add(np.full(10, 12.75), np.full(10, 3.0))
    assert np.array(rising_curve(reliability)) == pytest.approx(np.array([(0, 0), (0.1, 3.0)]))
    zeros = Reliability()
    zeros.add(np.zeros(10), np.ones(10))
    with pytest.raises(InputError, match="the map is 0 everywhere"):
        rising_curve(zeros)


@pytest.mark.parametrize(("confidence", "pairs"), [(0.9, 10), (0.8, 5), (0.95, 20), (0.5, 2)])
def test_pairs_that_a_confidence_needs(confidence: float, pairs: int) -> None:
    assert least_pairs(confidence) == pairs


@pytest.fixture
def pairs(tmp_path: Path, write_image: WriteImage) -> Path:
    for index in range(10):
        write_image(tmp_path / "pairs" / "lr" / f"{index}.png", (5, 4), seed=index)
        write_image(tmp_path / "pairs" / "hr" / f"{index}.png", (20, 16), seed=index)
    return tmp_path / "pairs"


def test_command_writes_into_the_models_file(
    tiny_file: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = load_nano(tiny_file)
    other = tmp_path / "other.safetensors"
    assert main(["calibrate", str(tiny_file), "--pairs", str(pairs), "--out", str(other), "--note", "noise"]) == 0
    assert load_nano(tiny_file).calibration is None
    assert main(["calibrate", str(tiny_file), "--pairs", str(pairs)]) == 0
    assert "grey levels (pairs, 10 pairs, 20" in capsys.readouterr().out
    after = load_nano(tiny_file)
    assert after.calibration is not None
    assert after.calibration.calibrated_on.startswith("pairs, 10 pairs, ")
    assert len(after.calibration.trust) == len(ERRORS)
    assert all(torch.equal(value, before.unet[key]) for key, value in after.unet.items())
    assert dataclasses.replace(after, calibration=None).training == before.training
    kept = load_nano(other).calibration
    assert kept is not None
    assert kept.calibrated_on.startswith("noise, 10 pairs")
    assert sorted(p.name for p in tiny_file.parent.iterdir()) == [tiny_file.name]
    assert main(["restore", str(pairs / "lr"), str(tmp_path / "out"), "--model", str(tiny_file), "--maps",
                 str(tmp_path / "maps")]) == 0  # fmt: skip
    assert np.load(tmp_path / "maps" / "3.npy").shape == (16, 20)


def test_bad_pairs_leave_the_model_as_it_was(
    tiny_file: Path, pairs: Path, tmp_path: Path, write_image: WriteImage, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tiny_file.read_bytes()

    def error(*flags: str) -> str:
        assert main(["calibrate", str(tiny_file), "--pairs", *flags]) == 2
        assert tiny_file.read_bytes() == before
        return capsys.readouterr().err.strip().splitlines()[-1]

    assert "expected the folders lr and hr in it, but lr is missing" in error(str(tmp_path))
    assert "a confidence of 0.95 needs at least 20 pairs, but got 10" in error(str(pairs), "--confidence", "0.95")
    assert "--confidence 1.5: expected a number between 0 and 1" in error(str(pairs), "--confidence", "1.5")
    write_image(pairs / "hr" / "9.png", (5, 4))
    assert "9.png: is 5 x 4; expected four times its photo" in error(str(pairs))
