"""Equations 1, 2 and 4-7 in both variants, against numbers worked out by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from qusr_train.model.noise import (
    NoiseParameters,
    Variant,
    as_variant,
    even_sigma,
    guided_step,
    injected_noise,
    kept_grain,
    noise_sigma,
    residual_step,
    seeded_noise,
)


def test_reference_sigma_is_the_root_of_the_absolute_map() -> None:
    u = torch.tensor([-0.09, 0.0, 0.16]).view(1, 1, 1, 3)
    sigma = noise_sigma(u, NoiseParameters(variant="reference"))
    torch.testing.assert_close(sigma.flatten(), torch.tensor([0.3, 1e-4, 0.4]), atol=1e-6, rtol=0)


def test_reference_reads_neither_k_nor_m() -> None:
    u = torch.randn(1, 2, 3, 3)
    plain = noise_sigma(u, NoiseParameters(variant="reference"))
    assert torch.equal(plain, noise_sigma(u, NoiseParameters(variant="reference", k=7.0, m=0.9)))


def test_paper_sigma_applies_gain_then_floor_then_delta() -> None:
    # k u = (-0.5, 0, 0.5); m + (1 - m) k u = (-0.2, 0.2, 0.6); |.| + 0.04 = (0.24, 0.24, 0.64)
    u = torch.tensor([-1.0, 0.0, 1.0]).view(1, 1, 1, 3)
    sigma = noise_sigma(u, NoiseParameters(variant="paper", k=0.5, m=0.2, delta=0.04))
    torch.testing.assert_close(sigma.flatten(), torch.tensor([0.4898979, 0.4898979, 0.8]), atol=1e-6, rtol=0)


def test_paper_floor_of_one_ignores_the_map() -> None:
    sigma = noise_sigma(torch.randn(1, 3, 4, 4) * 5, NoiseParameters(variant="paper", m=1.0, delta=0.0))
    assert torch.equal(sigma, torch.ones(1, 3, 4, 4))


def test_variants_agree_for_unit_gain_without_floor() -> None:
    u = torch.randn(2, 3, 4, 5)
    paper = noise_sigma(u, NoiseParameters(variant="paper", k=1.0, m=0.0))
    torch.testing.assert_close(paper, noise_sigma(u, NoiseParameters(variant="reference")))


def test_sobel_sigma_is_the_weight_itself() -> None:
    weight = torch.tensor([0.3, 0.65, 1.0]).view(1, 1, 1, 3)
    sigma = noise_sigma(weight, NoiseParameters(variant="sobel", k=7.0, m=0.9, delta=0.5))
    assert torch.equal(sigma, weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("variant", ["paper", "reference"])
def test_half_precision_keeps_the_floor_of_delta(dtype: torch.dtype, variant: Variant) -> None:
    sigma = noise_sigma(torch.zeros(1, 4, 2, 2, dtype=dtype), NoiseParameters(variant=variant))
    assert sigma.dtype == torch.float32
    torch.testing.assert_close(sigma, torch.full((1, 4, 2, 2), 1e-4), atol=1e-9, rtol=1e-5)


def test_injected_noise_is_noise_times_sigma_times_strength() -> None:
    injected = injected_noise(torch.tensor([[2.0, -1.0]]), torch.tensor([[0.5, 0.25]]), p=0.5)
    assert injected.tolist() == [[0.5, -0.125]]


def test_injected_noise_refuses_to_broadcast() -> None:
    with pytest.raises(ValueError, match=r"\(1, 4, 2, 2\) and \(1, 4, 1, 1\)"):
        injected_noise(torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 1, 1), 0.5)


@pytest.mark.parametrize(("variant", "expected"), [("reference", 1.25), ("paper", 0.75)])
def test_residual_is_subtracted_from_the_variants_latent(variant: Variant, expected: float) -> None:
    # z_lq = 1, injected = 0.5, so z_g = 1.5; eps = 0.25
    z_hq = residual_step(torch.tensor([1.5]), torch.tensor([0.25]), torch.tensor([0.5]), variant)
    assert z_hq.item() == expected


def test_paper_result_is_reference_result_minus_injected_noise() -> None:
    z_g, eps, injected = torch.randn(3, 2, 4, 5, 5).unbind(0)
    paper = residual_step(z_g, eps, injected, "paper")
    torch.testing.assert_close(paper, residual_step(z_g, eps, injected, "reference") - injected)


def test_without_noise_the_variants_agree() -> None:
    z, eps = torch.randn(2, 1, 4, 3, 3).unbind(0)
    nothing = injected_noise(torch.randn(1, 4, 3, 3), torch.ones(1, 4, 3, 3), p=0.0)
    assert torch.equal(residual_step(z, eps, nothing, "paper"), residual_step(z, eps, nothing, "reference"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("variant", "papers"),
        ("k", -0.1),
        ("m", 1.5),
        ("m", -0.01),
        ("p", -1.0),
        ("p", float("nan")),
        ("delta", -1e-9),
        ("delta", float("inf")),
    ],
)
def test_bad_parameter_is_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be .*but got"):
        dataclasses.replace(NoiseParameters(), **{name: value})


def test_defaults_are_the_reference() -> None:
    assert NoiseParameters() == NoiseParameters("reference", k=1.0, m=0.0, p=0.5, delta=1e-8)


def test_as_variant_knows_two_names() -> None:
    assert [as_variant(name) for name in ("paper", "reference")] == ["paper", "reference"]
    with pytest.raises(ValueError, match="'Paper'"):
        as_variant("Paper")


def test_seeded_noise_does_not_depend_on_the_batch() -> None:
    alone, batch = seeded_noise((1, 4, 6, 5), 3), seeded_noise((3, 4, 6, 5), 3)
    assert all(torch.equal(image, alone[0]) for image in batch)
    batch[0] += 1  # the images do not share memory
    assert torch.equal(batch[1], alone[0])


def test_seeded_noise_is_standard_normal_and_follows_the_seed() -> None:
    noise = seeded_noise((1, 16, 32, 32), 0)
    assert abs(noise.mean().item()) < 0.05
    assert abs(noise.std().item() - 1) < 0.05
    assert not torch.equal(noise, seeded_noise((1, 16, 32, 32), 1))


def test_seeded_noise_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    seeded_noise((1, 2, 3, 3), 0)
    assert torch.equal(torch.rand(3), expected)


def test_step_by_hand_in_both_variants() -> None:
    # sigma = sqrt(|0.25|) = 0.5; injected = 2 * 0.5 * 0.5 = 0.5; z_g = 1.5; eps = 0.1 z_g = 0.15
    z, u, noise = (torch.full((1, 1, 1, 1), value) for value in (1.0, 0.25, 2.0))
    settings = {"k": 1.0, "m": 0.0, "p": 0.5, "delta": 0.0}
    reference, paper = (
        guided_step(z, u, noise, NoiseParameters(variant=variant, **settings), lambda z_g: 0.1 * z_g).item()
        for variant in ("reference", "paper")
    )
    assert reference == pytest.approx(1.35)
    assert paper == pytest.approx(0.85)


def test_step_without_a_map_takes_the_residual_from_the_plain_latent() -> None:
    z = torch.randn(2, 3, 4, 4)
    seen: list[Tensor] = []
    restored = guided_step(z, None, None, NoiseParameters(), lambda z_g: seen.append(z_g) or torch.ones_like(z_g))
    assert torch.equal(seen[0], z)
    assert torch.equal(restored, z - 1)


def test_step_with_a_map_wants_noise() -> None:
    with pytest.raises(ValueError, match=r"noise: expected standard normal noise .* but got None"):
        guided_step(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), None, NoiseParameters(), lambda z_g: z_g)


def test_even_noise_has_the_power_of_the_adaptive_one_for_each_image() -> None:
    u = torch.rand(2, 3, 8, 8) * torch.tensor([1.0, 5.0]).view(2, 1, 1, 1)
    parameters = NoiseParameters(variant="paper", k=0.5, m=0.1)
    even = even_sigma(u, parameters)
    assert even.shape == (2, 1, 1, 1)
    torch.testing.assert_close(even.flatten().square(), noise_sigma(u, parameters).square().mean((1, 2, 3)))


def test_guided_step_with_even_noise() -> None:
    z, u, noise = torch.zeros(1, 3, 64, 64), torch.rand(1, 3, 64, 64), torch.randn(1, 3, 64, 64)
    parameters = NoiseParameters(p=0.5)
    even = even_sigma(u, parameters)
    uniform = guided_step(z, u, noise, parameters, torch.zeros_like, even)
    adaptive = guided_step(z, u, noise, parameters, torch.zeros_like)
    torch.testing.assert_close(uniform, noise * even * 0.5)
    torch.testing.assert_close(uniform.square().mean(), adaptive.square().mean(), rtol=0.1, atol=0)
    assert not torch.equal(uniform, adaptive)


def test_grain_of_one_dot_by_hand() -> None:
    # A dot of 12 in one colour: 4 in the mean; (1, 4, 6, 4, 1) / 16 both ways: 4 * 6 * 6 / 256 in the middle and
    # 4 * 6 * 4 / 256 beside it; over 70 / 256 / sqrt(3).
    pixels = torch.zeros(1, 3, 16, 16)
    pixels[0, 1, 8, 8] = 12.0
    grain = F.pixel_shuffle(kept_grain(F.pixel_unshuffle(pixels, 4), 0.5), 4)
    assert torch.equal(grain[:, 0], grain[:, 2])
    scale = 0.5 / (70 / 256 / 3**0.5)
    torch.testing.assert_close(grain[0, 0, 8, 7:10], scale * 4 / 256 * torch.tensor([24.0, 36.0, 24.0]))
    assert grain[0, 0, 8, 11] == 0


def test_grain_has_its_share_of_the_noise_and_is_soft() -> None:
    noise = seeded_noise((1, 48, 96, 96), 1)
    grain = F.pixel_shuffle(kept_grain(noise, 0.5), 4)[0, 0]
    assert grain.std().item() == pytest.approx(0.5, rel=0.02)
    beside = (grain[:, 1:] * grain[:, :-1]).mean() / grain.square().mean()
    assert beside.item() == pytest.approx(0.8, abs=0.02)  # (1 * 4 + 4 * 6) * 2 / 70


def test_grain_is_added_to_the_step_of_either_variant() -> None:
    z, u, noise = torch.zeros(1, 12, 5, 7), torch.rand(1, 12, 5, 7), seeded_noise((1, 12, 5, 7), 2)
    for variant in ("paper", "reference"):
        plain = NoiseParameters(variant=variant, k=0.5)
        grainy = dataclasses.replace(plain, grain=0.7)
        injected = injected_noise(noise, noise_sigma(u, plain), plain.p)
        difference = guided_step(z, u, noise, grainy, torch.sin) - guided_step(z, u, noise, plain, torch.sin)
        torch.testing.assert_close(difference, kept_grain(injected, 0.7), atol=1e-6, rtol=0)


def test_grain_needs_latents_that_are_pixels() -> None:
    with pytest.raises(ValueError, match=r"grain: needs latents of 3 x s x s channels, .* but got 4 channels"):
        kept_grain(torch.zeros(1, 4, 8, 8), 0.5)
