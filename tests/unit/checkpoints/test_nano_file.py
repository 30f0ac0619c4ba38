"""Weight files: what goes in comes out, and every unusable file is named."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from qusr_train.checkpoints.format import DIGEST, CheckpointError
from qusr_train.checkpoints.nano_file import NanoCheckpoint, load_nano, save_nano, scale_residual
from qusr_train.model.map_calibration import AS_TRAINED, MapCalibration, TrustLevel
from qusr_train.model.text_encoder import strip_text_prefix
from qusr_train.restore import Restorer

EMBEDDING = "embeddings.token_embedding.weight"


def _rewrite(path: Path, change: Callable[[dict[str, Tensor], dict[str, str]], object]) -> Path:
    """Change a file's tensors or metadata in place, and leave its hash out."""
    with safe_open(str(path), framework="pt") as file:
        metadata = {name: text for name, text in file.metadata().items() if name != DIGEST}
    tensors = load_file(path)
    change(tensors, metadata)
    save_file(tensors, path, metadata=metadata)
    return path


def _same(saved: dict[str, Tensor], loaded: dict[str, Tensor]) -> None:
    assert saved.keys() == loaded.keys()
    for name, value in saved.items():
        assert loaded[name].dtype == torch.float32
        torch.testing.assert_close(loaded[name], value, atol=1e-6, rtol=1e-3, msg=name)


def test_round_trip_within_half_precision(tiny_checkpoint: NanoCheckpoint, tiny_file: Path) -> None:
    loaded = load_nano(tiny_file)
    for field in ("config", "noise", "latent_scale", "training"):
        assert getattr(loaded, field) == getattr(tiny_checkpoint, field), field
    _same(tiny_checkpoint.unet, loaded.unet)
    _same(tiny_checkpoint.uem, loaded.uem)
    _same(tiny_checkpoint.text_encoder, loaded.text_encoder)
    assert loaded.lora.keys() == tiny_checkpoint.lora.keys()
    for name, layer in tiny_checkpoint.lora.items():
        assert loaded.lora[name].alpha == 8.0
        torch.testing.assert_close(loaded.lora[name].delta(), layer.delta(), atol=1e-4, rtol=1e-2)


def test_only_trained_words_take_space(tiny_checkpoint: NanoCheckpoint, tmp_path: Path) -> None:
    embedding = torch.zeros_like(tiny_checkpoint.text_encoder[EMBEDDING])
    embedding[[7, 320, 49407]] = torch.tensor([0.5, -0.25, 2.0])[:, None]
    tiny_checkpoint.text_encoder[EMBEDDING] = embedding
    path = tmp_path / "small.safetensors"
    save_nano(path, tiny_checkpoint)
    assert load_file(path)["text_encoder.token_ids"].tolist() == [7, 320, 49407]
    assert torch.equal(load_nano(path).text_encoder[EMBEDDING], embedding)
    assert path.stat().st_size < 200_000


def test_file_without_lora(tiny_checkpoint: NanoCheckpoint, tmp_path: Path) -> None:
    save_nano(tmp_path / "base.safetensors", dataclasses.replace(tiny_checkpoint, lora={}))
    assert load_nano(tmp_path / "base.safetensors").lora == {}


def test_saving_makes_folders_and_leaves_no_part(tiny_checkpoint: NanoCheckpoint, tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "model.safetensors"
    save_nano(path, tiny_checkpoint)
    save_nano(path, tiny_checkpoint)
    assert [p.name for p in path.parent.iterdir()] == ["model.safetensors"]


def test_failed_saving_leaves_the_old_place_alone(tiny_checkpoint: NanoCheckpoint, tmp_path: Path) -> None:
    target = tmp_path / "model.safetensors"
    target.mkdir()  # a folder cannot be replaced by a file
    with pytest.raises(OSError):
        save_nano(target, tiny_checkpoint)
    assert list(tmp_path.iterdir()) == [target]


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.safetensors: not found\. Give a"):
        load_nano(tmp_path / "none.safetensors")


@pytest.mark.parametrize("keep", [0, 5, 500, -1])
def test_truncated_file_is_named(tiny_file: Path, keep: int) -> None:
    tiny_file.write_bytes(tiny_file.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"tiny\.safetensors: damaged or not a safetensors file"):
        load_nano(tiny_file)


def test_foreign_file_is_named(tmp_path: Path) -> None:
    save_file({"conv.weight": torch.ones(2)}, tmp_path / "lora.safetensors")
    with pytest.raises(CheckpointError, match=r"lora\.safetensors: not a qusr-nano model \(found no QUSR metadata\)"):
        load_nano(tmp_path / "lora.safetensors")


def test_newer_version_asks_for_an_update(tiny_file: Path) -> None:
    _rewrite(tiny_file, lambda _, metadata: metadata.update(format_version="2"))
    with pytest.raises(CheckpointError, match=r"tiny\.safetensors: format version 2 is not supported.*Update"):
        load_nano(tiny_file)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda t, m: t.pop("text_encoder.token_ids"), id="no token ids"),
        pytest.param(lambda t, m: t.pop("lora.conv_in.up"), id="half a LoRA"),
        pytest.param(lambda t, m: m.pop("noise"), id="no noise parameters"),
        pytest.param(lambda t, m: m.update(config="{"), id="broken JSON"),
        pytest.param(lambda t, m: m.update(config=json.dumps({"width": 3})), id="unknown setting"),
        pytest.param(lambda t, m: m.update(noise=json.dumps({"m": 2.0})), id="impossible noise floor"),
    ],
)
def test_inconsistent_content_is_named(tiny_file: Path, change: Callable[..., object]) -> None:
    with pytest.raises(CheckpointError, match=r"tiny\.safetensors: inconsistent content"):
        load_nano(_rewrite(tiny_file, change))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda t, m: t["text_encoder.token_ids"].add_(5), id="token id beyond the vocabulary"),
        pytest.param(lambda t, m: m.update(config=json.dumps({"text_dim": 64})), id="rows of another width"),
    ],
)
def test_embedding_that_does_not_fit_is_named(tiny_file: Path, change: Callable[..., object]) -> None:
    with pytest.raises(CheckpointError, match=r"tiny\.safetensors: inconsistent content"):
        load_nano(_rewrite(tiny_file, change))


def test_text_prefix_of_transformers_4_is_removed() -> None:
    state = {"text_model.a": torch.ones(1), "b": torch.zeros(1), "text_model.embeddings.position_ids": torch.ones(1)}
    assert list(strip_text_prefix(state)) == ["a", "b"]


def test_scaled_residual_is_that_share_of_the_residual() -> None:
    checkpoint = load_nano()
    checkpoint = dataclasses.replace(checkpoint, noise=dataclasses.replace(checkpoint.noise, grain=0.0))  # no residual
    image = torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    results = [Restorer(c)(image, color_fix="none") for c in (checkpoint, scale_residual(checkpoint, 0.5))]
    bicubic = results[0].bicubic
    inside = (results[0].image > 0.01) & (results[0].image < 0.99)  # not clamped
    full, half = results[0].image - bicubic, results[1].image - bicubic
    torch.testing.assert_close(half[inside], 0.5 * full[inside], atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="factor"):
        scale_residual(checkpoint, 0.0)


def test_calibration_of_the_map_is_kept_with_the_weights(tiny_checkpoint: NanoCheckpoint, tmp_path: Path) -> None:
    calibration = MapCalibration(((0.0, 0.5), (1.0, 30.0)), (TrustLevel(8.0, 0.9, 3.0),), "12 pairs")
    save_nano(tmp_path / "a.safetensors", tiny_checkpoint)
    plain = load_nano(tmp_path / "a.safetensors")
    assert plain.map_calibration is None  # the paper's map has no unit
    save_nano(tmp_path / "b.safetensors", dataclasses.replace(plain, calibration=calibration))
    calibrated = load_nano(tmp_path / "b.safetensors")
    assert calibrated.map_calibration == calibration
    assert all(torch.equal(value, plain.uem[key]) for key, value in calibrated.uem.items())
    assert scale_residual(calibrated, 0.5).calibration is None


def test_a_map_of_errors_has_a_unit_without_calibration(tiny_checkpoint: NanoCheckpoint) -> None:
    config = dataclasses.replace(tiny_checkpoint.config, uem="error")
    assert dataclasses.replace(tiny_checkpoint, config=config).map_calibration == AS_TRAINED


def test_a_damaged_calibration_is_named(tiny_checkpoint: NanoCheckpoint, tmp_path: Path) -> None:
    calibration = MapCalibration(((0.0, 0.5), (1.0, 30.0)))
    save_nano(tmp_path / "a.safetensors", dataclasses.replace(tiny_checkpoint, calibration=calibration))
    _rewrite(tmp_path / "a.safetensors", lambda t, m: m.update(map=m["map"].replace("grey levels", "gray levels")))
    with pytest.raises(CheckpointError, match=r"a\.safetensors: inconsistent content \(map unit: expected"):
        load_nano(tmp_path / "a.safetensors")
