"""UEM: the reference's layout, tiling without a trace, and the model-free stand-in."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from qusr_train.model.uncertainty import (
    RECEPTIVE_RADIUS,
    UEM,
    deviation_uncertainty,
    estimate_uncertainty,
    gradient_uncertainty,
    residual_uncertainty,
)


def test_layout_is_the_references() -> None:
    shapes = {name: tuple(value.shape) for name, value in UEM().state_dict().items()}
    layers = {
        "encoder.0": (64, 3), "encoder.2": (64, 64), "encoder.4": (64, 64),
        "decoder.0": (64, 64), "decoder.2": (64, 64), "decoder.4": (3, 64),
    }  # fmt: skip
    expected = {f"{name}.weight": (*shape, 3, 3) for name, shape in layers.items()}
    assert shapes == expected | {f"{name}.bias": shape[:1] for name, shape in layers.items()}


def test_initialisation_is_xavier_with_bias_one_hundredth() -> None:
    torch.manual_seed(0)
    for name, value in UEM(16).named_parameters():
        if name.endswith("bias"):
            assert torch.all(value == 0.01)
        else:
            bound = math.sqrt(6 / (9 * (value.shape[0] + value.shape[1])))
            assert 0.9 * bound < value.abs().max().item() <= bound


def test_output_is_unbounded_in_both_directions() -> None:
    uem = UEM(1)
    with torch.no_grad():
        for parameter in uem.parameters():
            parameter.zero_()
        uem.get_parameter("decoder.4.bias").copy_(torch.tensor([-3.0, 0.0, 5.0]))
    assert uem(torch.rand(1, 3, 2, 2))[0, :, 0, 0].tolist() == [-3.0, 0.0, 5.0]


def test_a_pixel_reaches_exactly_the_receptive_radius() -> None:
    torch.manual_seed(0)
    uem, x = UEM(4), torch.zeros(1, 3, 21, 21)
    changed = x.clone()
    changed[..., 10, 10] = 5.0
    rows = (uem(changed) - uem(x)).abs().amax((0, 1, 3)).nonzero().flatten()
    assert (rows.min().item(), rows.max().item()) == (10 - RECEPTIVE_RADIUS, 10 + RECEPTIVE_RADIUS)


@pytest.mark.parametrize(("height", "width"), [(1, 40), (33, 16), (40, 47), (17, 5)])
@pytest.mark.parametrize("tile", [3, 16])
def test_tiled_estimate_equals_whole(height: int, width: int, tile: int) -> None:
    torch.manual_seed(1)
    uem, x = UEM(4), torch.rand(2, 3, height, width) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(estimate_uncertainty(uem, x, tile=tile), uem(x), atol=1e-5, rtol=0)


def test_tiles_stay_within_the_promised_size() -> None:
    sizes: list[tuple[int, ...]] = []

    class Spy(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            sizes.append(tuple(x.shape[-2:]))
            return x

    x = torch.rand(1, 3, 40, 50)
    assert torch.equal(estimate_uncertainty(Spy(), x, tile=16), x)
    assert len(sizes) == 3 * 4
    assert max(max(size) for size in sizes) == 16 + 2 * RECEPTIVE_RADIUS


def test_hidden_channels_must_be_positive() -> None:
    with pytest.raises(ValueError, match="hidden_channels must be at least 1, but got 0"):
        UEM(0)


def test_gradient_uncertainty_of_a_flat_image_is_zero() -> None:
    assert gradient_uncertainty(torch.full((1, 3, 9, 7), 0.3)).abs().max().item() == 0


def test_gradient_uncertainty_of_a_step_by_hand() -> None:
    # Columns 0 0 0 1 1 1: central differences are 1 in the two columns at the step, times 4.
    x = torch.tensor([0.0, 0, 0, 1, 1, 1]).expand(1, 3, 4, 6)
    u = gradient_uncertainty(x, window=1)
    assert u[0, 0, 0].tolist() == [0, 0, 4, 4, 0, 0]
    # A window of 3 averages: (0 0 4), (0 4 4), (4 4 0), (4 0 0) around the step.
    wide = gradient_uncertainty(x, window=3)
    torch.testing.assert_close(wide[0, 0, 1], torch.tensor([0, 4 / 3, 8 / 3, 8 / 3, 4 / 3, 0]))


def test_gradient_uncertainty_treats_both_axes_alike() -> None:
    x = torch.rand(1, 3, 12, 8)
    turned = gradient_uncertainty(x.transpose(-1, -2), window=5).transpose(-1, -2)
    torch.testing.assert_close(turned, gradient_uncertainty(x, window=5))


def test_gradient_uncertainty_keeps_the_size_of_one_pixel() -> None:
    assert gradient_uncertainty(torch.ones(2, 3, 1, 1)).tolist() == torch.zeros(2, 3, 1, 1).tolist()


@pytest.mark.parametrize("window", [0, -3, 4])
def test_gradient_window_must_be_odd(window: int) -> None:
    with pytest.raises(ValueError, match=f"positive odd number, but got {window}"):
        gradient_uncertainty(torch.zeros(1, 3, 5, 5), window)


def test_deviation_of_flat_and_of_half_black_half_white() -> None:
    assert deviation_uncertainty(torch.full((1, 3, 9, 7), 0.3)).abs().max().item() < 1e-3
    x = torch.tensor([-1.0, -1, -1, 1, 1, 1]).expand(1, 3, 6, 6)
    u = deviation_uncertainty(x, window=3)
    # Windows of (-1 -1 -1), (-1 -1 1), (-1 1 1), (1 1 1): mean -1/3 or 1/3 at the step, deviation sqrt(8) / 3.
    expected = torch.tensor([0, 0, 8**0.5 / 3, 8**0.5 / 3, 0, 0])
    torch.testing.assert_close(u[0, 1, 2], expected, atol=1e-3, rtol=0)


def test_residual_is_the_averaged_change() -> None:
    x, restored = torch.zeros(1, 3, 6, 6), torch.zeros(1, 3, 6, 6)
    restored[..., 3, 3] = -0.9
    u = residual_uncertainty(x, restored, window=3)
    torch.testing.assert_close(u[0, 0, 2:5, 2:5], torch.full((3, 3), 0.1))
    assert u[0, 0, 0, 0] == 0


@pytest.mark.parametrize("estimator", [gradient_uncertainty, deviation_uncertainty])
def test_estimators_see_what_is_harder(
    estimator: Callable[[torch.Tensor], torch.Tensor], texture: torch.Tensor
) -> None:
    x = texture * 2 - 1
    smooth = torch.nn.functional.avg_pool2d(x, 9, 1, padding=4, count_include_pad=False)
    assert estimator(x).mean() > 2 * estimator(smooth).mean()
