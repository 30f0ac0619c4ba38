"""Maps that carry a unit: the trust mask, the legend, what the viewer is told; and the estimators beside the model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

OLD = Path(__file__).parents[1] / "golden" / "nano-0.1.0" / "qusr-nano.safetensors"


@pytest.fixture
def nano(pack: Any) -> Any:
    """A model whose map has no unit: that of version 0.1.0."""
    return pack.nodes.native.nano.load_nano_models(path=str(OLD))


@pytest.fixture
def calibrated(pack: Any, nano: Any) -> Any:
    """Its UEM with a meaning: 100 |U| grey levels; errors below 4 are promised below 5, below 8 below 20."""
    module = pack.qusr_train.model.map_calibration
    levels = (module.TrustLevel(4.0, 0.9, 5.0), module.TrustLevel(8.0, 0.9, 20.0))
    return dataclasses.replace(nano.uem, meaning=module.MapCalibration(((0.0, 0.0), (1.0, 100.0)), levels, "a test"))


@pytest.fixture
def bicubic(node: Any, photo: Tensor) -> Tensor:
    return node.QUSREnlarge.execute(photo, 4.0).args[0]


def _view(node: Any, uncertainty: Any, **options: Any) -> Any:
    settings = {"colormap": "turbo", "opacity": 0.5, "range": "auto", "range_min": 0.0, "range_max": 1.0,
                "legend": False, **options}  # fmt: skip
    return node.QUSRUncertaintyView.execute(uncertainty, **settings)


def test_values_are_grey_levels_and_the_noise_reads_the_raw_map(
    node: Any, nano: Any, calibrated: Any, bicubic: Tensor
) -> None:
    plain, _ = node.QUSRUncertainty.execute(bicubic, nano.uem).args
    uncertainty, _ = node.QUSRUncertainty.execute(bicubic, calibrated).args
    assert (plain.unit, uncertainty.unit) == ("", "grey levels")
    assert torch.equal(plain.values, plain.magnitude)
    torch.testing.assert_close(uncertainty.values, plain.magnitude * 100)
    assert torch.equal(uncertainty.map, plain.map)
    one, other = (
        node.QUSRAdaptiveNoise.execute(nano.vae, u, 3, 1.0, "auto").args[0].sigma for u in (plain, uncertainty)
    )
    assert torch.equal(one, other)


@pytest.mark.parametrize(("max_error", "threshold"), [(4.0, 5.0), (7.0, 5.0), (8.0, 20.0), (64.0, 20.0)])
def test_trust_mask_is_1_below_the_threshold_of_the_promise(
    node: Any, calibrated: Any, bicubic: Tensor, max_error: float, threshold: float
) -> None:
    scaled = dataclasses.replace(calibrated)
    uncertainty, mask = node.QUSRUncertainty.execute(bicubic, scaled, max_error=max_error).args
    assert torch.equal(mask, (uncertainty.values < threshold).float())
    assert mask.shape == bicubic.shape[:3]


def test_trust_mask_has_both_values_and_a_default(node: Any, pack: Any, calibrated: Any, bicubic: Tensor) -> None:
    module = pack.qusr_train.model.map_calibration
    uncertainty, _ = node.QUSRUncertainty.execute(bicubic, calibrated).args
    middle = float(uncertainty.values.median())
    meaning = dataclasses.replace(calibrated.meaning, trust=(module.TrustLevel(module.DEFAULT_ERROR, 0.9, middle),))
    mask = node.QUSRUncertainty.execute(bicubic, dataclasses.replace(calibrated, meaning=meaning)).args[1]
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert float(mask.mean()) == pytest.approx(0.5, abs=0.01)


def test_an_error_below_what_was_measured_is_refused(node: Any, calibrated: Any, bicubic: Tensor) -> None:
    with pytest.raises(ValueError, match=r"max_error: expected at least 4 grey levels, .* but got 2"):
        node.QUSRUncertainty.execute(bicubic, calibrated, max_error=2.0)


def test_maps_without_calibration_keep_the_old_mask(node: Any, pack: Any, nano: Any, bicubic: Tensor) -> None:
    uncertainty, mask = node.QUSRUncertainty.execute(bicubic, nano.uem).args
    torch.testing.assert_close(mask, uncertainty.magnitude / uncertainty.magnitude.max())
    trained = dataclasses.replace(nano.uem, meaning=pack.qusr_train.model.map_calibration.AS_TRAINED)
    uncertainty, other = node.QUSRUncertainty.execute(bicubic, trained).args
    assert uncertainty.unit == "grey levels"
    torch.testing.assert_close(other, mask)


def test_view_tells_the_browser_the_unit(node: Any, nano: Any, calibrated: Any, bicubic: Tensor) -> None:
    plain, _ = node.QUSRUncertainty.execute(bicubic, nano.uem).args
    uncertainty, _ = node.QUSRUncertainty.execute(bicubic, calibrated).args
    old, new = (_view(node, u).ui["qusr_uncertainty"][0] for u in (plain, uncertainty))
    assert (old["unit"], new["unit"]) == ("", "grey levels")
    assert set(old["planes"]) == {"mean", "red", "green", "blue"}
    assert set(new["planes"]) == {"mean"}
    assert new["planes"]["mean"]["ranges"]["auto"][1] == pytest.approx(100 * old["planes"]["mean"]["ranges"]["auto"][1])


def test_legend_and_fixed_range_are_in_the_unit(node: Any, nano: Any, calibrated: Any, bicubic: Tensor) -> None:
    plain, _ = node.QUSRUncertainty.execute(bicubic, nano.uem).args
    uncertainty, _ = node.QUSRUncertainty.execute(bicubic, calibrated).args
    old = _view(node, plain, range="fixed", range_max=0.2).args[0]
    assert torch.allclose(_view(node, uncertainty, range="fixed", range_max=20.0).args[0], old, atol=2 / 255)
    wide = bicubic.repeat(1, 1, 4, 1)
    drawn = [
        _view(node, node.QUSRUncertainty.execute(wide, uem).args[0], legend=True).args[0][:, -28:]
        for uem in (nano.uem, calibrated)
    ]
    assert drawn[0].shape == drawn[1].shape
    assert not torch.equal(*drawn)


def test_upscale_hands_the_meaning_on(upscale: Any, node: Any, calibrated: Any, nano: Any, photo: Tensor) -> None:
    sockets = {"model": nano.model, "clip": nano.clip, "vae": nano.vae}
    assert upscale(photo, **sockets, uem=calibrated)[1].unit == "grey levels"
    assert upscale(photo, **sockets, uem=nano.uem)[1].unit == ""


@pytest.mark.parametrize("estimator", ["gradient", "deviation", "residual", "sobel"])
def test_estimators_beside_the_model(node: Any, calibrated: Any, bicubic: Tensor, estimator: str) -> None:
    uncertainty, mask = node.QUSRUncertainty.execute(bicubic, calibrated, estimator=estimator).args
    assert uncertainty.map.shape == (1, 3, *bicubic.shape[1:3])
    assert uncertainty.map.min() >= 0
    assert uncertainty.unit == ""  # the calibration is the model's alone
    assert float(mask.max()) == pytest.approx(1.0)


def test_residual_is_what_the_faithful_base_changes(node: Any, upscale: Any, bicubic: Tensor, pack: Any) -> None:
    flat = torch.full((1, 64, 64, 3), 0.5)
    assert node.QUSRUncertainty.execute(flat, estimator="residual").args[0].map.max() < 0.02
    uncertainty = node.QUSRUncertainty.execute(bicubic, estimator="residual").args[0]
    assert uncertainty.map.max() > 0.02
    model, clip, vae, _ = node.QUSRNanoLoader.execute(lora_strength=0.0).args
    conditioning = node.QUSREncodePrompt.execute([clip], [""]).args[0]
    silent = pack.nodes.native.noise.AdaptiveNoise(0, torch.zeros(1, 48, *(s // 4 for s in bicubic.shape[1:3])), 0.0)
    restored = node.QUSROneStepDenoise.execute(
        model, conditioning, {"samples": vae.encode(bicubic)}, silent, 1.0, 0, 0
    ).args[0]
    change = (vae.decode(restored["samples"]).clamp(0, 1) - bicubic).abs().movedim(-1, 1) * 2
    expected = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(change, (4,) * 4, mode="replicate"), 9, 1)
    torch.testing.assert_close(uncertainty.map, expected, atol=1e-4, rtol=0)


def test_a_file_with_a_map_of_errors(node: Any, pack: Any, photo: Tensor, tmp_path: Path, upscale: Any) -> None:
    """Its unit comes from the file; noise and picture are made from it as from any other map."""
    files, maps = pack.qusr_train.checkpoints.nano_file, pack.qusr_train.model.error_map
    checkpoint = files.load_nano()
    config = dataclasses.replace(checkpoint.config, uem="error", uem_channels=2)
    path = tmp_path / "error.safetensors"
    uem = dict(maps.ErrorUEM(2).state_dict())
    files.save_nano(path, dataclasses.replace(checkpoint, config=config, uem=uem, calibration=None))
    models = pack.nodes.native.nano.load_nano_models(path=str(path))
    small = photo[:, :13, :11]  # not a multiple of anything
    sockets = {"model": models.model, "clip": models.clip, "vae": models.vae, "uem": models.uem}
    result, uncertainty, bicubic, _ = upscale(small, **sockets)
    assert result.shape == bicubic.shape == (1, 52, 44, 3)
    assert uncertainty.unit == "grey levels"
    torch.testing.assert_close(uncertainty.values, uncertainty.map.mean(1) * 127.5)
    noise, _ = node.QUSRAdaptiveNoise.execute(models.vae, uncertainty, 3, 1.0, "auto").args
    assert torch.isfinite(noise.sigma).all()
