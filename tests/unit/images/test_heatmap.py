"""Heatmaps: the ends of each colormap, the range of the scale, the legend."""

from __future__ import annotations

import pytest
import torch

from qusr_train.images.heatmap import COLORMAPS, add_legend, colorize, value_range

ENDS = {
    "viridis": ((68, 1, 84), (253, 231, 37)),
    "turbo": ((48, 18, 59), (122, 4, 3)),
    "magma": ((0, 0, 4), (252, 253, 191)),
    "grey": ((0, 0, 0), (255, 255, 255)),
}


def test_every_colormap_is_known_here() -> None:
    assert set(COLORMAPS) == set(ENDS)


@pytest.mark.parametrize("colormap", COLORMAPS)
def test_ends_and_clamping(colormap: str) -> None:
    colors = colorize(torch.tensor([[[-1.0, 0.0, 1.0, 2.0]]]), colormap)[0, :, 0] * 255
    low, high = (torch.tensor(end, dtype=torch.float32) for end in ENDS[colormap])
    torch.testing.assert_close(colors, torch.stack([low, low, high, high], dim=1), atol=1e-3, rtol=0)


@pytest.mark.parametrize("colormap", ["viridis", "magma", "grey"])
def test_brightness_rises_with_the_value(colormap: str) -> None:
    brightness = colorize(torch.linspace(0, 1, 32)[None, None], colormap)[0].mean(0).flatten()
    assert torch.all(brightness.diff() > 0)


def test_grey_is_the_value_on_256_steps() -> None:
    values = torch.arange(256.0).view(2, 8, 16) / 255
    colors = colorize(values, "grey")
    assert colors.shape == (2, 3, 8, 16)
    torch.testing.assert_close(colors, values[:, None].expand(2, 3, 8, 16), atol=1e-5, rtol=0)


def test_unknown_colormap_is_refused() -> None:
    with pytest.raises(ValueError, match="viridis, turbo, magma, grey, but got 'jet'"):
        colorize(torch.zeros(1, 2, 2), "jet")


def test_automatic_range_is_zero_to_maximum() -> None:
    assert value_range(torch.tensor([[0.5, 2.0], [1.0, 0.25]]), "auto") == (0.0, 2.0)


def test_percentiles_leave_out_the_outermost_hundredths() -> None:
    assert value_range(torch.arange(101.0), "percentile") == pytest.approx((1.0, 99.0))


def test_fixed_range_is_taken_as_given() -> None:
    assert value_range(torch.rand(4), "fixed", -1.0, 3.0) == (-1.0, 3.0)


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, 1.0), (float("nan"), 1.0)])
def test_fixed_range_must_not_be_empty(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="range_max must be above range_min"):
        value_range(torch.rand(4), "fixed", low, high)


@pytest.mark.parametrize("mode", ["auto", "percentile"])
@pytest.mark.parametrize("value", [0.0, 0.7])
def test_range_of_a_constant_map_is_not_empty(mode: str, value: float) -> None:
    low, high = value_range(torch.full((3, 3), value), mode)
    assert low < high


def test_unknown_range_is_refused() -> None:
    with pytest.raises(ValueError, match="auto, percentile or fixed, but got 'minmax'"):
        value_range(torch.rand(4), "minmax")


@pytest.mark.parametrize(("height", "strip"), [(1, 28), (64, 28), (512, 32), (1600, 96)])
def test_legend_is_a_strip_below_the_image(height: int, strip: int) -> None:
    image = torch.rand(2, 3, height, 40)
    result = add_legend(image, "viridis", 0.0, 1.0)
    assert result.shape == (2, 3, height + strip, 40)
    assert torch.equal(result[:, :, :height], image)
    assert torch.equal(result[0, :, height:], result[1, :, height:])


def test_legend_runs_through_the_colormap() -> None:
    row = add_legend(torch.zeros(1, 3, 8, 200), "turbo", 0.0, 1.0)[0, :, 8]
    torch.testing.assert_close(
        row, colorize(torch.linspace(0, 1, 200)[None, None], "turbo")[0, :, 0], atol=0.01, rtol=0
    )


def test_legend_writes_its_values() -> None:
    image = torch.zeros(1, 3, 64, 400)
    one, other = add_legend(image, "grey", 0.0, 1.0), add_legend(image, "grey", 0.0, 2.0)
    changed = (one != other).any(1)[0].nonzero()
    assert len(changed) > 0
    assert changed[:, 1].min() > 100  # the left end still reads 0


def test_legend_of_one_pixel() -> None:
    assert add_legend(torch.zeros(1, 3, 1, 1), "magma", 0.0, 1.0).shape == (1, 3, 29, 1)
