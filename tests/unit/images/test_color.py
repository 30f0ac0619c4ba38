"""Colour fixes: low frequencies (wavelet) or statistics (adain) become the reference's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from qusr_train.images.color import COLOR_FIXES, adain_fix, fix_color, low_frequencies, wavelet_fix


def _published_wavelet(image: Tensor) -> tuple[Tensor, Tensor]:
    """StableSR's decomposition, written out: high frequencies summed over 5 levels, and the rest."""
    kernel = torch.tensor([[0.0625, 0.125, 0.0625], [0.125, 0.25, 0.125], [0.0625, 0.125, 0.0625]])
    weight = kernel[None, None].repeat(3, 1, 1, 1)
    high = torch.zeros_like(image)
    for level in range(5):
        radius = 2**level
        low = F.conv2d(F.pad(image, (radius,) * 4, mode="replicate"), weight, groups=3, dilation=radius)
        high, image = high + image - low, low
    return high, image


def test_wavelet_is_the_published_definition() -> None:
    image, reference = torch.rand(2, 3, 40, 52), torch.rand(2, 3, 40, 52)
    expected = _published_wavelet(image)[0] + _published_wavelet(reference)[1]
    torch.testing.assert_close(wavelet_fix(image, reference), expected, atol=1e-5, rtol=0)


def test_low_pass_of_a_dot_by_hand() -> None:
    dot = torch.zeros(1, 1, 5, 5)
    dot[0, 0, 2, 2] = 16.0
    assert low_frequencies(dot, levels=1)[0, 0, 1:4, 1:4].tolist() == [[1, 2, 1], [2, 4, 2], [1, 2, 1]]


def test_low_pass_keeps_a_constant_up_to_the_border() -> None:
    torch.testing.assert_close(low_frequencies(torch.full((1, 3, 9, 70), 0.3)), torch.full((1, 3, 9, 70), 0.3))


def test_wavelet_removes_a_colour_cast() -> None:
    reference = torch.rand(1, 3, 32, 48)
    cast = torch.tensor([0.2, -0.1, 0.05]).view(1, 3, 1, 1)
    torch.testing.assert_close(wavelet_fix(reference + cast, reference), reference, atol=1e-6, rtol=0)


def test_wavelet_takes_low_frequencies_and_keeps_detail() -> None:
    # The checkerboard vanishes under the first low-pass inside, the ramp passes through all five unchanged.
    y, x = torch.meshgrid(torch.arange(160.0), torch.arange(160.0), indexing="ij")
    checker = (((x + y) % 2) - 0.5).expand(1, 3, 160, 160)
    ramp = (x / 160).expand(1, 3, 160, 160)
    inner = slice(64, 96)
    fixed = wavelet_fix(checker, ramp)[..., inner, inner]
    torch.testing.assert_close(fixed, (checker + ramp)[..., inner, inner], atol=1e-5, rtol=0)
    low = low_frequencies(wavelet_fix(checker, ramp))[..., inner, inner]
    torch.testing.assert_close(low, low_frequencies(ramp)[..., inner, inner], atol=1e-5, rtol=0)


def test_adain_matches_mean_and_deviation_of_each_channel() -> None:
    torch.manual_seed(0)
    image, reference = torch.rand(2, 3, 20, 30), torch.rand(2, 3, 20, 30) * 0.4 + 0.1
    fixed = adain_fix(image, reference)
    torch.testing.assert_close(fixed.mean((2, 3)), reference.mean((2, 3)), atol=1e-5, rtol=0)
    torch.testing.assert_close(fixed.std((2, 3)), reference.std((2, 3)), atol=1e-4, rtol=0)
    assert torch.corrcoef(torch.stack([fixed[0, 0].flatten(), image[0, 0].flatten()]))[0, 1] > 0.9999


def test_adain_of_a_flat_image_is_the_references_mean() -> None:
    reference = torch.rand(1, 3, 6, 6)
    fixed = adain_fix(torch.full((1, 3, 6, 6), 0.7), reference)
    torch.testing.assert_close(fixed, reference.mean((2, 3), keepdim=True).expand(1, 3, 6, 6), atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", ["wavelet", "adain"])
def test_one_pixel_takes_the_references_colour(method: str) -> None:
    image, reference = torch.rand(1, 3, 1, 1), torch.rand(1, 3, 1, 1)
    torch.testing.assert_close(fix_color(image, reference, method), reference)


@pytest.mark.parametrize("method", COLOR_FIXES)
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 2), (33, 17)])
def test_an_image_is_its_own_fixed_point(method: str, size: tuple[int, int]) -> None:
    image = torch.rand(2, 3, *size)
    torch.testing.assert_close(fix_color(image, image, method), image, atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", ["wavelet", "adain"])
def test_images_of_a_batch_do_not_touch_each_other(method: str) -> None:
    image, reference = torch.rand(3, 3, 16, 20), torch.rand(3, 3, 16, 20)
    alone = torch.cat([fix_color(image[i : i + 1], reference[i : i + 1], method) for i in range(3)])
    torch.testing.assert_close(fix_color(image, reference, method), alone)


def test_none_changes_nothing() -> None:
    image = torch.rand(1, 3, 4, 4)
    assert torch.equal(fix_color(image, torch.rand(1, 3, 4, 4), "none"), image)


@pytest.mark.parametrize("method", COLOR_FIXES)
def test_different_shapes_are_refused(method: str) -> None:
    with pytest.raises(ValueError, match=r"same shape, but got \(1, 3, 4, 4\) and \(1, 3, 4, 5\)"):
        fix_color(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 5), method)


def test_unknown_method_is_refused() -> None:
    with pytest.raises(ValueError, match="wavelet, adain, none, but got 'lab'"):
        fix_color(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), "lab")
