"""Conformal risk control: the promise holds on fresh pictures, and only just."""

from __future__ import annotations

import numpy as np
import pytest

from qusr_train.evaluation.reliability import EDGES
from qusr_train.evaluation.trust import TrustCounts

ALPHA, PROMISE = 0.1, 8.0


def _picture(chance: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Map and errors of a picture whose errors are larger or smaller than its map says, by a factor of its own."""
    uncertainty = chance.lognormal(1.0, 0.8, 900)
    return uncertainty, chance.exponential(uncertainty * chance.lognormal(0.0, 0.5))


def _threshold(chance: np.random.Generator, pictures: int, alpha: float = ALPHA) -> float:
    counts = TrustCounts((PROMISE,))
    for _ in range(pictures):
        counts.add(*_picture(chance))
    return counts.threshold(0, alpha)


def _wrong_share(threshold: float, fresh: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """Mean over pictures of the share of trusted pixels with an error above the promise."""
    shares = []
    for uncertainty, error in fresh:
        trusted = uncertainty < threshold
        shares.append(float((error[trusted] > PROMISE).mean()) if trusted.any() else 0.0)
    return float(np.mean(shares))


@pytest.fixture(scope="module")
def fresh() -> list[tuple[np.ndarray, np.ndarray]]:
    chance = np.random.default_rng(1)
    return [_picture(chance) for _ in range(400)]


@pytest.mark.parametrize("pictures", [12, 40, 200])
def test_promise_holds_on_fresh_pictures(pictures: int, fresh: list[tuple[np.ndarray, np.ndarray]]) -> None:
    chance = np.random.default_rng(pictures)
    risks = [_wrong_share(_threshold(chance, pictures), fresh) for _ in range(40)]
    assert np.mean(risks) <= ALPHA + 2 * np.std(risks) / np.sqrt(len(risks))
    if pictures == 200:  # and it is not kept by trusting nothing
        assert np.mean(risks) > 0.8 * ALPHA


def test_finite_sample_correction_trusts_less_with_fewer_pictures() -> None:
    few, many = (np.mean([_threshold(np.random.default_rng(s), n) for s in range(20)]) for n in (12, 200))
    assert 0 < few < many


@pytest.mark.parametrize("pictures", [1, 8])
def test_too_few_pictures_trust_nothing(pictures: int) -> None:
    assert _threshold(np.random.default_rng(0), pictures) == 0


def test_threshold_by_hand() -> None:
    # 20 equal pictures of 100 pixels: map 1, 2, 4 and 8, with 0, 4, 12 and 25 wrong of 25 each.
    uncertainty = np.repeat([1.0, 2.0, 4.0, 8.0], 25)
    error = np.concatenate([[9.0] * wrong + [1.0] * (25 - wrong) for wrong in (0, 4, 12, 25)])
    counts = TrustCounts((PROMISE, 10.0))
    for _ in range(20):
        counts.add(uncertainty, error)
    # Shares below an edge above 1, 2, 4, 8: 0, 4/50, 16/75, 41/100; the bound is 20/21 of it + 1/21.
    assert 1 < counts.threshold(0, 0.06) <= 2.03
    assert 2 < counts.threshold(0, 0.15) <= 4.05
    assert 4 < counts.threshold(0, 0.30) <= 8.1
    assert counts.threshold(0, 0.04) == 0
    assert counts.trusted_share(counts.threshold(0, 0.15)) == 0.5
    assert counts.threshold(1, 0.06) == EDGES[-1]  # no error above 10: everything is trusted
    assert counts.trusted_share(EDGES[-1]) == 1
    assert counts.trusted_share(0.0) == 0


def test_losses_rise_and_a_handful_of_pixels_does_not_decide() -> None:
    counts = TrustCounts((PROMISE,))
    uncertainty = np.linspace(0.5, 50, 10_000)
    error = np.where(np.arange(10_000) < 3, 100.0, 0.0)  # the three surest pixels are wrong
    counts.add(uncertainty, error)
    losses = counts.losses(0)[0]
    assert (np.diff(losses) >= 0).all()
    assert losses[-1] == pytest.approx(3 / 100)


def test_only_the_order_of_the_map_counts() -> None:
    plain, squared = TrustCounts((PROMISE,)), TrustCounts((PROMISE,))
    chance = np.random.default_rng(2)
    for _ in range(30):
        uncertainty, error = _picture(chance)
        plain.add(uncertainty, error)
        squared.add(uncertainty**2 / 10, error)
    share = plain.trusted_share(plain.threshold(0, ALPHA))
    assert squared.trusted_share(squared.threshold(0, ALPHA)) == pytest.approx(share, abs=0.02)
    assert 0.2 < share < 1
