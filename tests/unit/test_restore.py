"""Restoring: the whole chain on plain tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from qusr_train.checkpoints.nano_file import NanoCheckpoint
from qusr_train.errors import InputError
from qusr_train.images.read import read_image
from qusr_train.model.error_map import ErrorUEM
from qusr_train.model.map_calibration import MapCalibration
from qusr_train.model.nano import NanoUNet
from qusr_train.model.noise import NoiseParameters, seeded_noise
from qusr_train.model.text_encoder import build_text_encoder
from qusr_train.restore import Restorer, restore_file

WriteImage = Callable[..., Path]


@pytest.fixture
def restorer(tiny_checkpoint: NanoCheckpoint) -> Restorer:
    return Restorer(tiny_checkpoint)


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand((1, 3, 10, 7), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (5, 3), (16, 16)])
def test_any_size_grows_four_times(restorer: Restorer, size: tuple[int, int]) -> None:
    result = restorer(torch.rand(2, 3, *size))
    assert result.image.shape == result.bicubic.shape == result.uncertainty.shape == (2, 3, 4 * size[0], 4 * size[1])
    assert result.image.min() >= 0
    assert result.image.max() <= 1
    assert len(result.prompts) == 2


def test_untrained_model_returns_bicubic(tiny_checkpoint: NanoCheckpoint, image: torch.Tensor) -> None:
    unet = NanoUNet(tiny_checkpoint.config)
    unet.start_as_identity()
    untrained = dataclasses.replace(tiny_checkpoint, unet=dict(unet.state_dict()), lora={})
    result = Restorer(untrained)(image)
    torch.testing.assert_close(result.image, result.bicubic, atol=1e-5, rtol=0)


def test_seed_changes_the_result_slightly(restorer: Restorer, image: torch.Tensor) -> None:
    first, again, other = (restorer(image, seed=seed).image for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert 0 < (first - other).abs().mean() < 0.02


def test_seed_and_its_noise_are_the_same_thing(restorer: Restorer, image: torch.Tensor) -> None:
    noise = seeded_noise((1, 48, 10, 7), 5)
    assert torch.equal(restorer(image, seed=5).image, restorer(image, noise=noise).image)


def test_strength_zero_ignores_the_seed(tiny_checkpoint: NanoCheckpoint, image: torch.Tensor) -> None:
    silent = Restorer(dataclasses.replace(tiny_checkpoint, noise=NoiseParameters(variant="paper", p=0.0)))
    assert torch.equal(silent(image, seed=0).image, silent(image, seed=1).image)


def test_image_alone_equals_image_in_a_batch(restorer: Restorer) -> None:
    batch = torch.rand((3, 3, 8, 6), generator=torch.Generator().manual_seed(1))
    together = restorer(batch, seed=2)
    for index in range(3):
        alone = restorer(batch[index : index + 1], seed=2)
        assert alone.prompts[0] == together.prompts[index]
        torch.testing.assert_close(alone.image[0], together.image[index], atol=1e-5, rtol=0)


def test_prompt_changes_the_result(restorer: Restorer, image: torch.Tensor) -> None:
    one, other = (restorer(image, prompt=prompt) for prompt in ("sharp", "very blurry, strong noise"))
    assert one.prompts == ["sharp"]
    assert (one.image - other.image).abs().max() > 1e-4


def test_lora_strength_zero_is_the_model_without_lora(tiny_checkpoint: NanoCheckpoint, image: torch.Tensor) -> None:
    without = Restorer(dataclasses.replace(tiny_checkpoint, lora={}))(image).image
    assert torch.equal(Restorer(tiny_checkpoint, lora_strength=0.0)(image).image, without)
    assert (Restorer(tiny_checkpoint)(image).image - without).abs().max() > 1e-5


def test_latent_scale_changes_nothing_but_the_space(tiny_checkpoint: NanoCheckpoint, image: torch.Tensor) -> None:
    unet = NanoUNet(tiny_checkpoint.config)
    unet.start_as_identity()
    scaled = dataclasses.replace(tiny_checkpoint, unet=dict(unet.state_dict()), lora={}, latent_scale=0.18215)
    result = Restorer(scaled)(image)
    torch.testing.assert_close(result.image, result.bicubic, atol=1e-5, rtol=0)


def test_text_encoder_refuses_foreign_keys(tiny_checkpoint: NanoCheckpoint) -> None:
    state = {**tiny_checkpoint.text_encoder, "visual.proj": torch.ones(1)}
    with pytest.raises(ValueError, match=r"keys do not fit: .*visual\.proj"):
        build_text_encoder(tiny_checkpoint.config, state)


def test_scaled_latents_follow_the_equations(tiny_checkpoint: NanoCheckpoint, image: torch.Tensor) -> None:
    # With eps = 0 the reference's result is z_lq + n sqrt(|s E(U)| + delta) p, divided by s on the way out.
    unet, scale, noise = NanoUNet(tiny_checkpoint.config), 0.25, torch.randn(1, 48, 10, 7)
    unet.start_as_identity()
    reference = NoiseParameters(variant="reference", p=0.05)
    scaled = dataclasses.replace(
        tiny_checkpoint, unet=dict(unet.state_dict()), lora={}, latent_scale=scale, noise=reference
    )
    result = Restorer(scaled)(image, noise=noise, color_fix="none")
    sigma = (scale * pixel_unshuffle(result.uncertainty, 4)).abs().add(1e-8).sqrt()
    change = pixel_shuffle(noise * sigma * 0.05 / scale, 4) / 2  # from [-1, 1] to [0, 1]
    torch.testing.assert_close(result.image, (result.bicubic + change).clamp(0, 1), atol=1e-5, rtol=0)


def test_restored_file_is_the_restored_tensor(restorer: Restorer, tmp_path: Path, write_image: WriteImage) -> None:
    source = write_image(tmp_path / "in.png", (6, 5))
    restore_file(restorer, source, tmp_path / "deep" / "out.png", prompt="a photo", seed=3)
    expected = restorer(read_image(source).rgb, prompt="a photo", seed=3).image
    torch.testing.assert_close(read_image(tmp_path / "deep" / "out.png").rgb, expected, atol=0.5 / 255 + 1e-6, rtol=0)


def _with_error_map(checkpoint: NanoCheckpoint) -> NanoCheckpoint:
    uem = ErrorUEM(2)
    config = dataclasses.replace(checkpoint.config, uem="error")
    return dataclasses.replace(checkpoint, config=config, uem=dict(uem.state_dict()))


def test_map_of_errors_comes_in_grey_levels(tiny_checkpoint: NanoCheckpoint, image: torch.Tensor) -> None:
    result = Restorer(_with_error_map(tiny_checkpoint))(image)
    assert result.expected_error is not None
    assert result.expected_error.shape == (1, 40, 28)
    torch.testing.assert_close(result.expected_error, result.uncertainty.mean(1) * 127.5)


def test_paper_map_has_no_unit_until_it_is_calibrated(tiny_checkpoint: NanoCheckpoint, image: torch.Tensor) -> None:
    assert Restorer(tiny_checkpoint)(image).expected_error is None
    calibration = MapCalibration(((0.0, 1.0), (0.5, 9.0), (100.0, 9.0)))
    calibrated = Restorer(dataclasses.replace(tiny_checkpoint, calibration=calibration))(image)
    assert calibrated.expected_error is not None
    assert torch.equal(calibrated.expected_error, calibration.grey_levels(calibrated.uncertainty))
    assert torch.equal(calibrated.image, Restorer(tiny_checkpoint)(image).image)  # the noise reads the raw map


def test_strength_and_spread_of_the_noise(tiny_checkpoint: NanoCheckpoint, image: torch.Tensor) -> None:
    silent = Restorer(dataclasses.replace(tiny_checkpoint, noise=NoiseParameters(variant="paper", p=0.0)))(image).image
    assert torch.equal(Restorer(tiny_checkpoint, noise_strength=0.0)(image).image, silent)
    assert torch.equal(Restorer(tiny_checkpoint, spread="none")(image).image, silent)
    adaptive, uniform = (Restorer(tiny_checkpoint, spread=spread)(image).image for spread in ("adaptive", "uniform"))
    assert (adaptive - uniform).abs().max() > 0
    assert (uniform - silent).abs().max() > 1e-4


def test_map_file_of_a_map_without_unit_is_refused_before_anything_is_written(
    restorer: Restorer, tmp_path: Path, write_image: WriteImage
) -> None:
    source = write_image(tmp_path / "in.png", (6, 5))
    with pytest.raises(InputError, match="maps: the model's map has no unit"):
        restore_file(restorer, source, tmp_path / "out.png", None, 0, tmp_path / "out.npy")
    assert [path.name for path in tmp_path.iterdir()] == ["in.png"]


def test_uniform_noise_knows_nothing_of_tiles(tiny_checkpoint: NanoCheckpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = torch.rand((1, 3, 24, 20), generator=torch.Generator().manual_seed(3))
    restorer = Restorer(tiny_checkpoint, spread="uniform")
    whole = restorer(picture).image
    monkeypatch.setattr("qusr_train.restore.TILE", 8)
    torch.testing.assert_close(restorer(picture).image, whole, atol=1e-5, rtol=0)
