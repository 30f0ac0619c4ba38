"""The authors' file formats: read, converted, and refused when they are not what they claim."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from qusr_train.checkpoints.format import CheckpointError
from qusr_train.checkpoints.load import load_checkpoint
from qusr_train.checkpoints.qusr_file import QUSRCheckpoint, load_qusr, save_qusr
from qusr_train.cli.main import main
from qusr_train.model.lora import LoraLayer
from qusr_train.model.noise import NoiseParameters

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "checkpoints"


def _content(name: str) -> dict[str, Any]:
    return torch.load(GOLDEN / f"{name}.pkl", weights_only=True)


def _saved(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "model.pkl"
    torch.save(content, path)
    return path


def test_qusr() -> None:
    checkpoint = load_checkpoint(GOLDEN / "qusr.pkl")
    assert checkpoint.method == "qusr"
    assert len(checkpoint.lora) == 93 + 148 + 16
    assert checkpoint.lora["conv_in"].down.shape == (4, 4, 3, 3)
    assert all(layer.alpha == 8 for layer in checkpoint.lora.values())  # peft's default, not in the file
    assert checkpoint.hidden_channels == 64
    assert checkpoint.noise == NoiseParameters(variant="reference", k=1.0, m=0.0, p=0.5, delta=1e-8)
    assert checkpoint.timestep == 1
    assert not checkpoint.pixel_lora
    assert not checkpoint.base_weights


def test_pisa_sr() -> None:
    checkpoint = load_checkpoint(GOLDEN / "pisa_sr.pkl")
    assert checkpoint.method == "pisa-sr"
    assert checkpoint.lora.keys() == checkpoint.pixel_lora.keys()
    name = "mid_block.attentions.0.proj_in"
    assert not torch.equal(checkpoint.lora[name].down, checkpoint.pixel_lora[name].down)
    assert checkpoint.noise.p == 0
    assert checkpoint.hidden_channels == 0


def test_osediff() -> None:
    checkpoint = load_checkpoint(GOLDEN / "osediff.pkl")
    assert checkpoint.method == "osediff"
    assert set(checkpoint.base_weights) == {"conv_in.weight", "conv_in.bias"}
    assert len(checkpoint.vae_lora) == 30
    assert checkpoint.vae_lora["encoder.mid_block.attentions.0.to_q"].down.shape == (4, 32)
    assert checkpoint.timestep == 999


def test_codsr() -> None:
    checkpoint = load_checkpoint(GOLDEN / "codsr.pkl")
    assert checkpoint.method == "codsr"
    assert len(checkpoint.lora) == 93 + 148 + 16
    attention = ("to_q", "to_k", "to_v", "to_out.0")
    assert checkpoint.alignment_lora.keys() == {name for name in checkpoint.lora if name.endswith(attention)}
    assert len(checkpoint.vae_lora) == 30
    assert checkpoint.modulation["SFT_scale_conv0.weight"].shape == (32, 192, 3, 3)
    assert checkpoint.noise == NoiseParameters(variant="sobel", p=1.0)
    assert checkpoint.timestep == 100
    assert not checkpoint.base_weights


@pytest.mark.parametrize("name", ["qusr", "pisa_sr", "osediff", "codsr"])
def test_convert_keeps_everything_and_gives_the_same_bytes_twice(name: str, tmp_path: Path) -> None:
    hashes = set()
    for index in range(2):  # two processes: the order of hash maps differs from one to the next
        target = tmp_path / f"{index}.safetensors"
        command = [sys.executable, "-m", "qusr_train", "convert", str(GOLDEN / f"{name}.pkl"), str(target)]
        subprocess.run(command, check=True, cwd=GOLDEN.parents[2], env={**os.environ, "PYTHONHASHSEED": "random"})
        hashes.add(hashlib.sha256(target.read_bytes()).hexdigest())
    assert len(hashes) == 1
    before, after = load_checkpoint(GOLDEN / f"{name}.pkl"), load_checkpoint(tmp_path / "0.safetensors")
    for part in ("lora", "pixel_lora", "alignment_lora", "vae_lora"):
        layers, others = getattr(before, part), getattr(after, part)
        assert layers.keys() == others.keys()
        for layer in layers:
            assert torch.equal(layers[layer].down, others[layer].down)
            assert torch.equal(layers[layer].up, others[layer].up)
            assert layers[layer].alpha == others[layer].alpha
    for part in ("base_weights", "uem", "modulation"):
        assert getattr(before, part).keys() == getattr(after, part).keys()
        assert all(torch.equal(v, getattr(after, part)[k]) for k, v in getattr(before, part).items())
    for part in ("noise", "method", "timestep", "base_model", "training"):
        assert getattr(before, part) == getattr(after, part)


def test_convert_never_replaces_a_file_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "mine.safetensors"
    target.write_bytes(b"precious")
    assert main(["convert", str(GOLDEN / "qusr.pkl"), str(target)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert target.read_bytes() == b"precious"
    assert main(["convert", str(GOLDEN / "qusr.pkl"), str(target), "--overwrite"]) == 0
    assert load_qusr(target).method == "qusr"
    assert main(["convert", str(GOLDEN / "qusr.pkl"), str(tmp_path / "model.bin")]) == 2


class _Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("plain", [True, False])
def test_a_hostile_pickle_is_refused_and_runs_nothing(plain: bool, tmp_path: Path) -> None:
    marker, path = tmp_path / "ran", tmp_path / "model.pkl"
    content = {**_content("qusr"), "extra": _Hostile(marker)}
    if plain:
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match="could run code"):
        load_checkpoint(path)
    assert not marker.exists()


@pytest.mark.parametrize("keep", [0, 5, 200, 60_000])
@pytest.mark.parametrize("ending", ["pkl", "safetensors"])
def test_truncated_file(keep: int, ending: str, tmp_path: Path) -> None:
    whole = GOLDEN / "qusr.pkl"
    if ending == "safetensors":
        whole = tmp_path / "whole.safetensors"
        save_qusr(whole, load_checkpoint(GOLDEN / "qusr.pkl"))
    path = tmp_path / f"cut.{ending}"
    path.write_bytes(whole.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"cut\..*(damaged|refused)"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "expected a dictionary, but it holds a list"),
        ({"state_dict": {"a": torch.ones(1)}}, "none of QUSR, PiSA-SR, OSEDiff and CODSR .it holds state_dict"),
        ({}, "it holds nothing"),
    ],
)
def test_foreign_file(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(_saved(tmp_path, content))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nothing\.pkl: not found"):
        load_checkpoint(tmp_path / "nothing.pkl")


def test_uncertainty_without_a_uem_is_refused(tmp_path: Path) -> None:
    content = _content("qusr")
    del content["state_dict_uncertainty"]
    with pytest.raises(CheckpointError, match="has no UEM weights"):
        load_checkpoint(_saved(tmp_path, content))
    content["enable_uncertainty"] = False
    assert load_checkpoint(_saved(tmp_path, content)).noise.p == 0


def test_damage_inside_is_named(tmp_path: Path) -> None:
    def refused(change: Any, message: str) -> None:
        content = _content("qusr")
        content["state_dict_unet"] = dict(content["state_dict_unet"])
        change(content)
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(_saved(tmp_path, content))

    key = "conv_in.lora_A.default_encoder_sem.weight"
    refused(lambda c: c["state_dict_unet"].pop(key), "conv_in: one of its two matrices is missing")
    refused(lambda c: c["state_dict_unet"].update({key: torch.full((4, 4, 3, 3), torch.nan)}), "NaN")
    refused(
        lambda c: c["state_dict_unet"].update({"conv_in.weight": torch.ones(1)}), "unexpected weight conv_in.weight"
    )
    refused(lambda c: c.update(lora_rank_unet_sem=8), "expected rank 8, but got 4")
    refused(lambda c: c.pop("lora_rank_unet_sem"), "'lora_rank_unet_sem' is missing")
    refused(lambda c: c["state_dict_uncertainty"].pop("decoder.4.bias"), "UEM weights do not fit")


def test_our_format_checks_itself(tmp_path: Path) -> None:
    layer = LoraLayer(torch.ones(4, 3), torch.ones(5, 4), 8.0)
    noise = NoiseParameters(p=0.0)
    with pytest.raises(ValueError, match="method must be one of"):
        QUSRCheckpoint(lora={"a": layer}, noise=noise, method="other")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no LoRA"):
        QUSRCheckpoint(lora={}, noise=noise)
    with pytest.raises(ValueError, match="differ in rank"):
        QUSRCheckpoint(lora={"a": LoraLayer(torch.ones(4, 3), torch.ones(5, 2), 8.0)}, noise=noise)
    with pytest.raises(ValueError, match="timestep"):
        QUSRCheckpoint(lora={"a": layer}, noise=noise, timestep=1000)
    path = tmp_path / "half.safetensors"
    save_qusr(path, QUSRCheckpoint(lora={"a": layer}, noise=noise, training={"steps": 3}), torch.float16)
    assert load_qusr(path).training == {"steps": 3}
    with pytest.raises(CheckpointError, match="own loader"):
        load_checkpoint(
            Path(__file__).resolve().parents[3] / "qusr_train" / "checkpoints" / "weights" / "qusr-nano.safetensors"
        )
