"""Figures of maps against cases worked out by hand, and against the theory of known distributions."""

from __future__ import annotations

import numpy as np
import pytest

from qusr_train.evaluation.reliability import COUNT, EDGES, Reliability, bin_of
from qusr_train.evaluation.uncertainty import (
    aurg,
    ause,
    flat_share,
    luma_correlation,
    map_figures,
    mean_of_windows,
    pixel_error,
    sparsification,
)


@pytest.fixture
def error() -> np.ndarray:
    """Exponential errors: the mean of the smallest share q of them has a closed form."""
    return np.random.default_rng(0).exponential(5.0, (300, 400))


def test_error_is_the_mean_over_the_colours_in_grey_levels() -> None:
    a, b = np.zeros((1, 2, 3)), np.zeros((1, 2, 3))
    a[0, 1] = [3 / 255, -6 / 255, 0]
    assert pixel_error(a, b) == pytest.approx(np.array([[0.0, 3.0]]))


def test_curve_of_four_pixels() -> None:
    error = np.array([4.0, 0.0, 2.0, 2.0])
    order = np.array([1.0, 2.0, 4.0, 3.0])  # goes away: third, fourth, second
    # all: mean 2; without the third: 6 / 3; without the fourth: 4 / 2; without the second: 4
    assert sparsification(order, error, 4) == pytest.approx(np.array([2, 2, 2, 4]) / 2)
    assert sparsification(error, error, 4) == pytest.approx(np.array([2, 4 / 3, 1, 0]) / 2)
    assert ause(order, error, 4) == pytest.approx((0 + 2 / 3 + 1 + 4) / 2 / 4)
    assert aurg(order, error, 4) == pytest.approx((0 + 0 + 0 - 2) / 2 / 4)


def test_the_error_itself_has_ause_0_whatever_its_unit(error: np.ndarray) -> None:
    assert ause(error, error) == 0
    assert ause(np.sqrt(error) / 7, error) == 0
    assert ause(error + 1e-3 * np.random.default_rng(1).random(error.shape), error) > 0


def test_random_order_has_the_ause_of_the_theory(error: np.ndarray) -> None:
    # The mean of the smallest q of an exponential distribution of mean 1 is (q + (1 - q) ln(1 - q)) / q.
    q = 1 - np.arange(100) / 100
    with np.errstate(divide="ignore", invalid="ignore"):
        oracle = np.where(q < 1, (q + (1 - q) * np.log(1 - q)) / q, 1.0)
    chance = np.random.default_rng(2).random(error.shape)
    assert ause(chance, error) == pytest.approx(float(np.mean(1 - oracle)), abs=0.01)
    assert aurg(chance, error) == pytest.approx(0.0, abs=0.01)


def test_ause_and_aurg_share_out_the_oracles_gain(error: np.ndarray) -> None:
    noisy = error * np.random.default_rng(3).lognormal(0, 1, error.shape)
    assert ause(noisy, error) + aurg(noisy, error) == pytest.approx(aurg(error, error))
    assert 0 < ause(noisy, error) < ause(np.ones_like(error), error)
    assert ause(-error, error) > ause(np.ones_like(error), error)


def test_a_picture_without_errors_has_nothing_to_find() -> None:
    nothing = np.zeros((5, 5))
    assert ause(np.ones((5, 5)), nothing) == 0
    assert aurg(np.ones((5, 5)), nothing) == 0


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"same shape, but got \(2, 3\) and \(3, 2\)"):
        ause(np.ones((2, 3)), np.ones((3, 2)))


def test_mean_of_windows_repeats_the_border() -> None:
    values = np.arange(12.0).reshape(3, 4)
    padded = np.pad(values, 1, mode="edge")
    expected = [[padded[y : y + 3, x : x + 3].mean() for x in range(4)] for y in range(3)]
    assert mean_of_windows(values, 3) == pytest.approx(np.array(expected))


def test_bins_hold_their_values() -> None:
    values = np.array([0.0, 1e-3, 0.5, 7.25, 999.0, 1e9])
    place = bin_of(values)
    assert place[0] == place[1] == 0
    assert place[-1] == COUNT - 1
    assert (EDGES[place[1:-1]] <= values[1:-1] * (1 + 1e-9)).all()
    assert (values[1:-1] <= EDGES[place[1:-1] + 1] * (1 + 1e-9)).all()


def test_ence_of_a_calibrated_and_of_a_doubled_map() -> None:
    chance = np.random.default_rng(4)
    expected = chance.uniform(1, 20, 400_000)
    error = chance.exponential(expected)
    right, doubled, even = Reliability(), Reliability(), Reliability()
    right.add(expected, error)
    doubled.add(2 * expected, error)
    even.add(np.full_like(expected, 10.5), error)
    assert right.ence() == pytest.approx(0.0, abs=0.01)
    assert doubled.ence() == pytest.approx(0.5, abs=0.01)
    assert even.ence() == pytest.approx(0.0, abs=0.01)  # calibrated, though it knows nothing: ENCE is not AUSE


def test_ence_by_hand() -> None:
    reliability = Reliability()
    reliability.add(np.array([2.0, 2.0, 10.0, 10.0]), np.array([1.0, 2.0, 10.0, 14.0]))
    assert reliability.ence(2) == pytest.approx((0.5 / 2 + 2 / 10) / 2)


def test_groups_have_equally_many_pixels_and_pictures_add_up() -> None:
    values = np.random.default_rng(5).lognormal(1, 1, 100_000)
    whole, parts = Reliability(), Reliability()
    whole.add(values, values)
    for one in np.split(values, 4):
        other = Reliability()
        other.add(one, one)
        parts.merge(other)
    pixels, predicted, observed = whole.groups(10)
    assert pixels == pytest.approx(np.full(10, 10_000), rel=0.1)
    assert (np.diff(predicted) > 0).all()
    assert predicted == pytest.approx(observed)
    assert parts.groups(10)[1] == pytest.approx(predicted)


def test_luma_correlation() -> None:
    picture = np.random.default_rng(6).random((40, 50, 3))
    y = picture @ np.array([0.299, 0.587, 0.114])
    assert luma_correlation(3 - 2 * y, picture) == pytest.approx(1.0)
    assert luma_correlation(np.random.default_rng(7).random((40, 50)), picture) < 0.1
    assert luma_correlation(np.ones((40, 50)), picture) == 0


def test_flat_share_of_a_picture_that_is_a_quarter_flat() -> None:
    picture = np.repeat(np.random.default_rng(8).random((80, 80, 1)), 3, axis=2)
    picture[:, :30] = 0.5  # more than a quarter, so that no border of the windows counts
    uncertainty = np.full((80, 80), 4.0)
    uncertainty[:, :30] = 1.0
    assert flat_share(uncertainty, picture) == pytest.approx(1.0 / (30 / 80 * 1 + 50 / 80 * 4))
    assert flat_share(np.ones((80, 80)), picture) == pytest.approx(1.0)


def test_the_oracle_map_of_a_picture() -> None:
    chance = np.random.default_rng(9)
    truth = chance.random((64, 64, 3))
    prediction = truth + chance.normal(0, 0.02, truth.shape)
    figures = map_figures(pixel_error(prediction, truth), prediction, truth)
    assert figures.ause == 0
    assert figures.aurg > 0.2
    assert figures.ence == pytest.approx(0.0, abs=1e-9)
    assert figures.ause_9x9 > 0.02  # a pixel says little about its neighbourhood here
