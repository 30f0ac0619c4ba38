"""CODSR's noise weight, against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from qusr_train.model.sobel import sobel_magnitude, sobel_sigma, sobel_uncertainty, sobel_weight


def test_magnitude_of_a_step_by_hand() -> None:
    x = torch.zeros(1, 3, 5, 6)
    x[..., 3:] = 0.5  # a vertical edge: gx = (1 + 2 + 1) * 0.5 on both sides of it, gy = 0
    magnitude = sobel_magnitude(x)
    assert magnitude.shape == (1, 1, 5, 6)
    torch.testing.assert_close(magnitude[0, 0], torch.tensor([0.0, 0.0, 2.0, 2.0, 0.0, 0.0]).expand(5, 6))
    turned = sobel_magnitude(x.transpose(-1, -2)).transpose(-1, -2)
    torch.testing.assert_close(turned, magnitude)


def test_magnitude_is_of_the_grey_picture() -> None:
    x = torch.zeros(1, 3, 4, 4)
    x[:, 1, :, 2:] = 1.0  # green counts 0.587
    torch.testing.assert_close(sobel_magnitude(x).amax(), torch.tensor(4 * 0.587))


@pytest.mark.parametrize(
    ("mean", "weight"), [(0.0, 0.3), (0.15, 0.3), (0.2, 0.65), (0.25, 1.0), (0.26, 1.0), (3.0, 1.0)]
)
def test_weight_of_a_block(mean: float, weight: float) -> None:
    torch.testing.assert_close(sobel_weight(torch.full((1, 1, 16, 16), mean)), torch.full((1, 1, 16, 16), weight))


def test_blocks_are_of_16_pixels_and_the_last_ones_repeat_the_border() -> None:
    magnitude = torch.zeros(1, 1, 20, 40)
    magnitude[..., :16, :16] = 1.0
    magnitude[..., 39] = 0.4  # the last column, repeated over the 8 that its block lacks: a mean of 9 / 16 of it
    weight = sobel_weight(magnitude)
    assert weight.shape == magnitude.shape
    assert weight[..., :16, :16].unique().tolist() == [1.0]
    assert weight[..., :16, 16:32].unique().tolist() == pytest.approx([0.3])
    assert weight[..., 32:].unique().tolist() == pytest.approx([0.3 + 7 * (0.4 * 9 / 16 - 0.15)], rel=1e-5)


def test_sigma_is_the_weight_at_each_latent_pixel() -> None:
    u = sobel_uncertainty(torch.rand(2, 3, 37, 50, generator=torch.Generator().manual_seed(3)) * 2 - 1)
    assert u.shape == (2, 3, 37, 50)
    sigma = sobel_sigma(u, 8)
    assert sigma.shape == (2, 1, 5, 7)
    for y in range(5):
        for x in range(7):
            assert torch.equal(sigma[:, 0, y, x], u[:, 0, y * 8, x * 8])
    with pytest.raises(ValueError, match="divisor of 16, but got 5"):
        sobel_sigma(u, 5)
