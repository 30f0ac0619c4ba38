"""CODSR's feature modulation: shapes, the identity, and weights that do not fit."""

from __future__ import annotations

import pytest
import torch

from qusr_train.model.modulation import FeatureModulation, build_modulation, modulate


def test_shapes_and_key_names() -> None:
    module = FeatureModulation(32)
    scale, shift = module(torch.zeros(2, 3, 24, 16))
    assert scale.shape == shift.shape == (2, 32, 3, 2)
    assert {name.split(".")[0] for name in module.state_dict()} == {
        "SFT_scale_conv0", "SFT_scale_conv1", "SFT_shift_conv0", "SFT_shift_conv1",
    }  # fmt: skip


def test_modulation_by_hand() -> None:
    h, scale, shift = (torch.full((1, 2, 1, 1), value) for value in (3.0, 0.5, -1.0))
    torch.testing.assert_close(modulate(h, scale, shift), torch.full((1, 2, 1, 1), 3.5))
    assert torch.equal(modulate(h, scale * 0, shift * 0), h)


def test_weights_that_do_not_fit_are_refused() -> None:
    state = FeatureModulation(16).state_dict()
    assert build_modulation(state).channels == 16
    with pytest.raises(ValueError, match=r"SFT_scale_conv0\.bias is missing"):
        build_modulation({})
    with pytest.raises(ValueError, match="do not fit"):
        build_modulation({**state, "SFT_shift_conv1.weight": torch.zeros(16, 8, 3, 3)})
