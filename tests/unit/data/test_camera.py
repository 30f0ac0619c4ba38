"""Synthetic camera degradations: reproducible, of the right size, and each step what it says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from qusr_train.data.camera import MILD, degrade
from qusr_train.data.camera_pairs import fit_blur
from qusr_train.data.degradation import degradation
from qusr_train.data.degraded import Applied
from qusr_train.data.filters import filter_image, gaussian_kernel, jpeg, sinc_kernel
from qusr_train.images.check import enlarge


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("seed", range(30))
def test_result_is_a_quarter_of_the_size_on_the_8_bit_grid(texture: Tensor, seed: int) -> None:
    lr = degrade(texture[..., :48, :80], _generator(seed)).lr
    assert lr.shape == (1, 3, 12, 20)
    assert lr.min() >= 0
    assert lr.max() <= 1
    torch.testing.assert_close(lr * 255, (lr * 255).round(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("seed", range(8))
def test_generator_decides_everything(texture: Tensor, seed: int) -> None:
    torch.manual_seed(0)
    one = degrade(texture, _generator(seed)).lr
    torch.manual_seed(1)
    assert torch.equal(degrade(texture, _generator(seed)).lr, one)


def test_generators_differ(texture: Tensor) -> None:
    results = [degrade(texture, _generator(seed)).lr for seed in range(6)]
    assert len({tuple(result.flatten().tolist()) for result in results}) == 6


def test_degradation_stays_close_to_the_photo(texture: Tensor) -> None:
    small = torch.nn.functional.interpolate(texture, size=(24, 24), mode="area")
    errors = [(degrade(texture, _generator(seed)).lr - small).abs().mean().item() for seed in range(40)]
    assert min(errors) > 0
    assert max(errors) < 0.08  # mild on purpose: tone, noise and halos included


def _applied(texture: Tensor, seed: int) -> Applied:
    applied = degrade(texture, _generator(seed)).applied
    assert applied is not None
    return applied


def test_reports_what_it_did(texture: Tensor) -> None:
    pairs = [degrade(texture, _generator(seed)) for seed in range(60)]
    done = [_applied(texture, seed) for seed in range(60)]
    assert all(pair.hr.shape == texture.shape for pair in pairs)
    assert {torch.equal(pair.hr, texture) for pair in pairs} == {True, False}  # two kinds of pair
    assert all(0.12 < one.blur < 1.3 for one in done)
    assert any(one.noise == 0 for one in done)
    assert max(one.noise for one in done) > 3
    assert {one.quality == 100 for one in done} == {True, False}


def test_blur_is_what_can_be_undone(texture: Tensor) -> None:
    """Blurring the target by it gives the small picture; softness that the target has too is not counted."""
    photo = texture.repeat(1, 1, 2, 2)
    rows = []
    for seed in range(60):
        pair = degrade(photo, _generator(seed))
        assert pair.applied is not None
        if pair.applied.noise < 1 and pair.applied.quality == 100:  # nothing else to explain
            softness = -pair.hr.diff(dim=-1).abs().mean().item()
            rows.append((pair.applied.blur, fit_blur(pair.lr, pair.hr), softness))
    reported, fitted, softness = torch.tensor(rows).T
    assert len(rows) > 15
    assert torch.corrcoef(torch.stack([reported, fitted]))[0, 1] > 0.7
    assert abs(torch.corrcoef(torch.stack([reported, softness]))[0, 1]) < 0.5


def test_another_scale(texture: Tensor) -> None:
    assert degrade(texture, _generator(0), scale=2).lr.shape == (1, 3, 48, 48)


def test_smallest_photo() -> None:
    assert degrade(torch.rand(1, 3, 4, 4), _generator(3)).lr.shape == (1, 3, 1, 1)


@pytest.mark.parametrize("size", [(40, 28), (5, 3), (10, 7), (1, 1)])
def test_enlarge_is_pillows_bicubic(size: tuple[int, int]) -> None:
    image = torch.rand(10, 7)
    expected = Image.fromarray(image.numpy()).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    result = enlarge(image[None, None], *size)[0, 0]
    torch.testing.assert_close(result, torch.from_numpy(np.array(expected)), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "kernel",
    [gaussian_kernel(2.0, 0.7, 0.6), gaussian_kernel(0.0, 0.0, 0.0, 7), sinc_kernel(math.pi / 3), sinc_kernel(1.0, 9)],
)
def test_kernels_keep_brightness(kernel: Tensor) -> None:
    assert kernel.sum().item() == pytest.approx(1.0, abs=1e-5)
    flat = torch.full((1, 3, 9, 5), 0.4)
    torch.testing.assert_close(filter_image(flat, kernel), flat, atol=1e-5, rtol=0)


def test_gaussian_has_its_sigmas_and_angle() -> None:
    kernel = gaussian_kernel(2.0, 1.0, 0.0, 41)
    r = torch.arange(41.0) - 20
    assert (kernel.sum(0) * r**2).sum().sqrt().item() == pytest.approx(2.0, abs=1e-3)  # along x
    assert (kernel.sum(1) * r**2).sum().sqrt().item() == pytest.approx(1.0, abs=1e-3)  # along y
    torch.testing.assert_close(gaussian_kernel(2.0, 1.0, math.pi / 2, 41), kernel.T, atol=1e-6, rtol=0)


def test_sinc_rings_and_the_gaussian_does_not() -> None:
    assert sinc_kernel(math.pi / 2).min() < -1e-3
    assert gaussian_kernel(2.0, 2.0, 0.0).min() >= 0


def test_filter_correlates_with_the_kernel() -> None:
    kernel = torch.zeros(3, 3)
    kernel[1, 2] = 1.0  # takes the pixel to the right, the border repeats
    image = torch.tensor([1.0, 2.0, 3.0]).expand(1, 1, 2, 3)
    assert filter_image(image, kernel)[0, 0, 0].tolist() == [2.0, 3.0, 3.0]


@pytest.mark.parametrize("side", [11, 33])
def test_large_kernels_correlate_too(side: int) -> None:
    kernel = torch.rand(side, side)
    kernel = kernel / kernel.sum()
    image = torch.rand(2, 3, 20, 9)
    pad = side // 2
    padded = torch.nn.functional.pad(image, (pad, pad, pad, pad), mode="replicate")
    expected = torch.nn.functional.conv2d(padded, kernel.expand(3, 1, side, side), groups=3)
    torch.testing.assert_close(filter_image(image, kernel), expected, atol=1e-5, rtol=1e-4)


def test_jpeg_loses_more_at_lower_quality(texture: Tensor) -> None:
    errors = [(jpeg(texture, quality) - texture).abs().mean().item() for quality in (95, 70, 40, 10)]
    assert errors == sorted(errors)
    assert 0 < errors[0] < 0.02


def test_the_mild_camera_leaves_less_to_undo(texture: Tensor) -> None:
    usual = [degrade(texture, _generator(seed)).applied for seed in range(80)]
    mild = [degradation("camera_mild")(texture, _generator(seed), 4).applied for seed in range(80)]
    assert torch.equal(
        degradation("camera_mild")(texture, _generator(3), 4).lr, degrade(texture, _generator(3), cameras=MILD).lr
    )
    assert sum(a.blur for a in mild if a) < 0.75 * sum(a.blur for a in usual if a)
