"""From raw maps to grey levels, and which level of trust is taken."""

from __future__ import annotations

import pytest
import torch

from qusr_train.model.map_calibration import AS_TRAINED, MapCalibration, TrustLevel

CURVE = ((0.1, 2.0), (0.3, 4.0), (0.5, 10.0))


def test_points_of_the_curve_and_between_and_outside() -> None:
    u = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 1.0])
    got = MapCalibration(CURVE).of_magnitude(u)
    torch.testing.assert_close(got, torch.tensor([2.0, 2.0, 3.0, 4.0, 7.0, 10.0, 20.0]))


def test_raw_maps_are_read_by_magnitude_and_over_channels() -> None:
    u = torch.tensor([0.2, -0.4, 0.3]).view(1, 3, 1, 1)
    torch.testing.assert_close(MapCalibration(CURVE).grey_levels(u), torch.full((1, 1, 1), 4.0))


def test_a_map_in_the_trained_unit_is_multiplied_by_127_5() -> None:
    u = torch.rand(2, 3, 4, 5) * 3
    torch.testing.assert_close(AS_TRAINED.grey_levels(u), u.mean(1) * 127.5)


def test_level_with_an_error_of_at_most_what_is_asked() -> None:
    levels = tuple(TrustLevel(error, 0.9, error / 2) for error in (8.0, 2.0, 4.0))
    calibration = MapCalibration(CURVE, levels)
    found = {error: calibration.trust_for(error) for error in (1.0, 2.0, 7.9, 100.0)}
    assert [None if level is None else level.error for level in found.values()] == [None, 2.0, 4.0, 8.0]
    assert MapCalibration(CURVE).trust_for(8.0) is None


def test_json_brings_everything_back() -> None:
    calibration = MapCalibration(CURVE, (TrustLevel(8.0, 0.9, 3.25, 0.5),), "12 pairs")
    assert MapCalibration.from_json(calibration.to_json()) == calibration


@pytest.mark.parametrize(
    "curve",
    [
        (), ((0.0, 0.0),), ((0.0, 1.0), (0.0, 2.0)), ((0.0, 2.0), (1.0, 1.0)),
        ((0.0, 0.0), (1.0, float("nan"))), ((-1.0, 0.0), (1.0, 1.0)),
    ],
)  # fmt: skip
def test_curves_that_do_not_rise_are_refused(curve: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(ValueError, match="expected two or more rising points"):
        MapCalibration(curve)


def test_other_units_keys_and_levels_are_refused() -> None:
    with pytest.raises(ValueError, match="map unit: expected 'grey levels', but got 'metres'"):
        MapCalibration.from_json('{"curve": [[0, 0], [1, 1]], "unit": "metres"}')
    with pytest.raises(TypeError, match="colour"):
        MapCalibration.from_json('{"curve": [[0, 0], [1, 1]], "colour": 1}')
    with pytest.raises(ValueError, match="trust level: expected"):
        TrustLevel(8.0, 1.5, 3.0)
