"""The UEM whose map is an expected error."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from qusr_train.model.error_map import GREY_LEVELS, ErrorUEM, structure
from qusr_train.model.uncertainty import estimate_uncertainty


@pytest.fixture
def uem() -> ErrorUEM:
    torch.manual_seed(1)
    return ErrorUEM(6).eval()


@pytest.mark.parametrize("size", [(8, 8), (64, 48), (37, 51), (1, 3)])
def test_map_has_the_pictures_size_and_three_equal_channels_above_0(uem: ErrorUEM, size: tuple[int, int]) -> None:
    u = uem(torch.rand(2, 3, *size) * 2 - 1)
    assert u.shape == (2, 3, *size)
    assert u.min() > 0
    assert torch.equal(u[:, 0], u[:, 2])


def test_untrained_map_is_the_given_error_everywhere(uem: ErrorUEM) -> None:
    uem.start_even(0.1)
    torch.testing.assert_close(uem(torch.rand(1, 3, 32, 32)), torch.full((1, 3, 32, 32), 0.1))


def test_brightness_alone_changes_nothing(uem: ErrorUEM) -> None:
    x = torch.rand(1, 3, 64, 64) * 0.5 - 0.5
    torch.testing.assert_close(structure(x), structure(x + 0.4), atol=2e-4, rtol=0)
    torch.testing.assert_close(uem(x), uem(x + 0.4), atol=1e-4, rtol=1e-3)


def test_detail_changes_it(uem: ErrorUEM) -> None:
    flat, detailed = torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 64)
    detailed[..., ::8, :] = 0.5
    assert (uem(flat) - uem(detailed)).abs().max() > 1e-3


def test_a_pixel_depends_on_no_more_than_the_stated_radius(uem: ErrorUEM) -> None:
    x = torch.rand(1, 3, 241, 241) * 0.2
    near, far = x.clone(), x.clone()
    middle, radius = 120, uem.receptive_radius
    far[..., middle + radius + 4 :] += 0.5 * torch.rand(far[..., middle + radius + 4 :].shape)
    near[..., middle + 8] += 0.5
    before = uem(x)[..., middle, middle]
    torch.testing.assert_close(uem(far)[..., middle, middle], before)
    assert (uem(near)[..., middle, middle] - before).abs().max() > 1e-6


def test_tiles_equal_the_whole(uem: ErrorUEM) -> None:
    x = F.interpolate(torch.rand(1, 3, 60, 75), scale_factor=4, mode="bicubic") * 2 - 1
    torch.testing.assert_close(estimate_uncertainty(uem, x, tile=128), uem(x), atol=1e-5, rtol=1e-4)


def test_one_unit_is_127_5_grey_levels() -> None:
    assert GREY_LEVELS == 255 / 2


def test_channels_must_be_positive() -> None:
    with pytest.raises(ValueError, match="hidden_channels must be at least 1, but got 0"):
        ErrorUEM(0)
