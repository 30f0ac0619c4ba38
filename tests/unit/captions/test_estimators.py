"""The estimators follow known degradations on real photos, in the degradation's own unit."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from qusr_train.captions.estimators import (
    MOST_BLUR,
    estimate_blur,
    estimate_jpeg_loss,
    estimate_noise,
    luma,
    noise_variance,
)
from qusr_train.captions.measured import measure_quality
from qusr_train.data.filters import filter_image, gaussian_kernel, jpeg
from tests.tools.estimators import blur_sweep, jpeg_sweep, noise_sweep, on_8_bits, rank_correlation, read_photo

PHOTOS = sorted((Path(__file__).parents[2] / "photos").glob("*.png"))


@pytest.fixture(scope="module")
def photos() -> list[Tensor]:
    return [read_photo(path, 160) for path in PHOTOS]


def _correlation(photos: list[Tensor], sweeps: Iterable[Iterable[tuple[float, Tensor]]], field: str) -> float:
    pairs = [(true, getattr(measure_quality(one)[0], field)) for sweep in sweeps for true, one in sweep]
    assert len(pairs) == 8 * len(photos)
    return rank_correlation([true for true, _ in pairs], [measured for _, measured in pairs])


def _noise(image: Tensor) -> tuple[float, float]:
    return estimate_noise(*noise_variance(image[0]))


def test_there_are_several_photos() -> None:
    assert len(PHOTOS) == 6


def test_blur_follows_the_true_blur(photos: list[Tensor]) -> None:
    assert _correlation(photos, map(blur_sweep, photos), "blur") > 0.9


@pytest.mark.parametrize("blotchy", [False, True])
@pytest.mark.parametrize("grey", [False, True])
def test_noise_follows_the_true_noise(photos: list[Tensor], blotchy: bool, grey: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    assert _correlation(photos, (noise_sweep(p, generator, blotchy, grey) for p in photos), "noise") > 0.9


def test_jpeg_loss_follows_the_true_loss(photos: list[Tensor]) -> None:
    assert _correlation(photos, map(jpeg_sweep, photos), "blocking") > 0.9


@pytest.mark.parametrize("sigma", [1.0, 2.0])
def test_blur_is_in_pixels(photos: list[Tensor], sigma: float) -> None:
    found = [measure_quality(filter_image(p, gaussian_kernel(sigma, sigma, 0.0)))[0].blur for p in photos]
    assert torch.tensor(found).median().item() == pytest.approx(sigma, rel=0.25)


@pytest.mark.parametrize("sigma", [0.8, 1.5, 3.0])
def test_blur_of_an_ideal_edge_by_equation(sigma: float) -> None:
    x = torch.arange(64, dtype=torch.float32) - 32
    edge = 127.5 * (1 + torch.erf(x / (sigma * 2**0.5)))
    # The central difference is a box 2 pixels wide (variance 1/3); a sharp photo's 0.7 pixels are taken off.
    expected = (sigma**2 + 1 / 3 - 0.7**2) ** 0.5
    assert estimate_blur(edge.expand(32, 64)) == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("contrast", [0.1, 3.0])
def test_contrast_does_not_change_the_blur(photos: list[Tensor], contrast: float) -> None:
    y = 255 * luma(photos[0][0])
    assert estimate_blur(contrast * y) == pytest.approx(estimate_blur(y), abs=5e-3)


def test_noise_is_in_grey_levels_and_knows_its_colour() -> None:
    generator = torch.Generator().manual_seed(0)
    grey = 0.5 + torch.randn((1, 1, 128, 128), generator=generator).expand(1, 3, 128, 128) * (8 / 255)
    noise, chroma = _noise(grey)
    assert noise == pytest.approx(8.0, rel=0.25)
    assert chroma == pytest.approx(0.0, abs=1e-2)
    noise, chroma = _noise(0.5 + torch.randn((1, 3, 128, 128), generator=generator) * (8 / 255))
    assert noise == pytest.approx(8.0, rel=0.25)
    assert chroma / noise == pytest.approx(0.74, abs=0.08)


def test_shading_is_not_noise() -> None:
    ramp = torch.linspace(0.1, 0.9, 128).expand(1, 3, 128, 128)
    assert _noise(ramp) == (0.0, 0.0)


def test_clipped_areas_do_not_hide_noise() -> None:
    image = 0.5 + torch.randn((1, 3, 128, 128), generator=torch.Generator().manual_seed(0)) * (8 / 255)
    image[..., :64] = 1.0
    assert _noise(image)[0] == pytest.approx(8.0, rel=0.25)


@pytest.mark.parametrize("quality", [20, 50, 75, 90])
def test_jpeg_quality_is_read_from_the_coefficients(photos: list[Tensor], quality: int) -> None:
    found = [estimate_jpeg_loss(jpeg(p, quality)[0]) for p in photos]
    # Neighbouring qualities may round to the same steps.
    assert sum(abs(loss - (100.0 - quality)) <= 2 for loss in found) >= 5, found


@pytest.mark.parametrize("shift", [(3, 5), (7, 1)])
def test_a_cropped_jpeg_is_found_too(photos: list[Tensor], shift: tuple[int, int]) -> None:
    found = [estimate_jpeg_loss(jpeg(p, 50)[0, :, shift[0] :, shift[1] :]) for p in photos]
    assert sum(abs(loss - 50.0) <= 2 for loss in found) >= 5, found


def test_uncompressed_photos_have_no_jpeg_loss(photos: list[Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    for photo in photos:
        assert estimate_jpeg_loss(photo[0]) == 0.0
        assert estimate_jpeg_loss(on_8_bits(photo + torch.randn(photo.shape, generator=generator) * 0.02)[0]) == 0.0


def test_a_picture_without_edges_counts_as_most_blurred() -> None:
    assert estimate_blur(torch.full((32, 32), 100.0)) == MOST_BLUR
    assert estimate_blur(torch.zeros(2, 2)) == MOST_BLUR
