"""Training: both stages make models that run, and a resumed run goes on where it stopped."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from qusr_train.checkpoints.nano_file import NanoCheckpoint, load_nano, save_nano
from qusr_train.model.lora import LoraLayer, target_layers
from qusr_train.model.nano import NanoUNet
from qusr_train.model.tokenizer import fit_prompt
from qusr_train.restore import Restorer
from qusr_train.training.config import TrainConfig
from qusr_train.training.loop import train
from qusr_train.training.nano import NEW
from tests.support.comfyui import ROOT

pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`")

OLD = ROOT / "tests" / "golden" / "nano-0.1.0" / "qusr-nano.safetensors"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, texture: Tensor) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    Image.fromarray((texture[0] * 255).byte().permute(1, 2, 0).numpy()).save(folder / "photo.png")
    return folder


def _config(photos: Path, out: Path, **changes: Any) -> TrainConfig:
    tiny = {"patch": 64, "batch_size": 1, "steps": 2, "workers": 0, "precision": "no", "photo_factors": (1.0,)}
    return TrainConfig(**{"photos": str(photos), "out": str(out), **tiny, **changes})


def _log(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def base(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(_config(photos, tmp_path_factory.mktemp("base")))


@pytest.fixture(scope="module")
def qusr(photos: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    changes = {"noise_variant": "reference", "noise_k": 0.5, "noise_p": 0.25, "noise_grain": 0.4, "rank": 2}
    return train(_config(photos, tmp_path_factory.mktemp("qusr"), stage="qusr", init=str(base), **changes))


def test_base_runs_without_noise_or_lora(base: Path) -> None:
    model = load_nano(base)
    assert (model.config, model.noise.p, model.lora) == (NEW, 0.0, {})
    assert model.training["base"]["steps"] == 2
    assert model.unet["conv_out.weight"].abs().max() > 0  # learned: it starts at zero
    image = torch.rand(1, 3, 6, 5)
    first, other = (Restorer(model)(image, seed=seed) for seed in (0, 1))
    assert first.image.shape == (1, 3, 24, 20)
    assert torch.equal(first.image, other.image)


def test_words_the_captions_never_use_stay_neutral(base: Path) -> None:
    rows = load_nano(base).text_encoder["embeddings.token_embedding.weight"]
    assert rows[list(fit_prompt("zebra").tokens)].abs().max() == 0
    assert torch.all(rows[list(fit_prompt("blurry noise lighting").tokens)].abs().amax(1) > 0)


def test_qusr_adds_lora_uem_and_noise_to_an_unchanged_base(base: Path, qusr: Path) -> None:
    start, model = load_nano(base), load_nano(qusr)
    noise = model.noise
    assert (noise.variant, noise.k, noise.p, noise.grain) == ("reference", 0.5, 0.25, 0.4)
    assert set(model.training) == {"base", "qusr"}
    assert set(model.lora) == set(target_layers(NanoUNet(model.config)))
    assert {layer.down.shape[0] for layer in model.lora.values()} == {2}
    assert max(layer.delta().abs().max().item() for layer in model.lora.values()) > 0
    assert all(torch.equal(value, start.unet[name]) for name, value in model.unet.items())
    assert all(torch.equal(value, start.text_encoder[name]) for name, value in model.text_encoder.items())
    assert any(not torch.equal(value, start.uem[name]) for name, value in model.uem.items())


def test_grain_is_for_the_finished_model_and_not_for_the_losses(
    photos: Path, base: Path, qusr: Path, tmp_path: Path
) -> None:
    changes = {"noise_variant": "reference", "noise_k": 0.5, "noise_p": 0.25, "rank": 2}
    plain = load_nano(train(_config(photos, tmp_path, stage="qusr", init=str(base), **changes)))
    grainy = load_nano(qusr)
    assert (plain.noise.grain, grainy.noise.grain) == (0.0, 0.4)
    assert all(torch.equal(layer.up, grainy.lora[name].up) for name, layer in plain.lora.items())


def test_prompt_reaches_every_block_of_an_older_model_when_asked(photos: Path, tmp_path: Path) -> None:
    image, other = torch.rand(1, 3, 6, 5), "very blurry"
    changes = {"init": str(OLD), "steps": 1, "learning_rate": 1e-9, "add_error_map": True}
    kept = load_nano(train(_config(photos, tmp_path / "kept", **changes)))
    added = load_nano(train(_config(photos, tmp_path / "added", add_film=True, **changes)))
    assert (kept.config.film, added.config.film) == (0, NEW.film)
    assert (kept.config.uem, kept.config.uem_channels) == (NEW.uem, NEW.uem_channels)
    assert set(added.unet) - set(kept.unet) == {name for name in added.unet if "film" in name or "prompt_" in name}
    one, same = (Restorer(model)(image, prompt=other).image for model in (kept, added))
    torch.testing.assert_close(one, same, atol=2e-3, rtol=0)


def test_finished_lora_can_be_continued(photos: Path, base: Path, qusr: Path, tmp_path: Path) -> None:
    changes = {"stage": "qusr", "init": str(qusr), "rank": 2, "steps": 1, "learning_rate": 1e-9, "ema": 0.0}
    before, after = load_nano(qusr), load_nano(train(_config(photos, tmp_path, continue_lora=True, **changes)))
    assert all(torch.equal(value, load_nano(base).unet[name]) for name, value in after.unet.items())
    for name, layer in before.lora.items():
        torch.testing.assert_close(after.lora[name].delta(), layer.delta(), atol=1e-4, rtol=1e-2)


def test_state_of_another_shape_is_named(photos: Path, base: Path, tmp_path: Path) -> None:
    train(_config(photos, tmp_path, steps=1))
    state = torch.load(tmp_path / "base.state.pt", weights_only=True)
    state["model"] = {name: value for name, value in state["model"].items() if "film" not in name}
    del state["digest"]  # as if such a model had been trained, not as if the file were damaged
    torch.save(state, tmp_path / "base.state.pt")
    with pytest.raises(ValueError, match=r"base\.state\.pt: belongs to a model of another shape"):
        train(_config(photos, tmp_path, steps=2))


def test_qusr_model_runs_and_reads_its_seed(qusr: Path) -> None:
    restorer, image = Restorer(load_nano(qusr)), torch.rand(1, 3, 6, 5)
    first, other = (restorer(image, seed=seed).image for seed in (0, 1))
    assert first.shape == (1, 3, 24, 20)
    assert not torch.equal(first, other)


def test_resumed_run_goes_on_at_its_step_and_equals_a_straight_run(photos: Path, tmp_path: Path) -> None:
    # Within the warm-up the learning rate does not depend on the number of steps.
    straight = train(_config(photos, tmp_path / "straight", steps=4))
    train(_config(photos, tmp_path / "resumed", steps=2))
    assert torch.load(tmp_path / "resumed" / "base.state.pt", weights_only=True)["step"] == 2
    resumed = train(_config(photos, tmp_path / "resumed", steps=4))
    assert [line["steps"] for line in _log(tmp_path / "resumed")] == [2, 4]
    one, other = load_file(straight), load_file(resumed)
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, atol=1e-6, rtol=1e-3, msg=name)


def test_intermediate_saves_do_not_disturb_the_run(photos: Path, tmp_path: Path, base: Path) -> None:
    saved_often = train(_config(photos, tmp_path, save_every=1))
    assert [line["steps"] for line in _log(tmp_path)] == [1, 2]
    assert all(torch.equal(value, load_file(base)[name]) for name, value in load_file(saved_often).items())


def test_finished_run_is_not_repeated(photos: Path, tmp_path: Path) -> None:
    path = train(_config(photos, tmp_path, steps=1))
    before = path.read_bytes()
    assert train(_config(photos, tmp_path, steps=1)) == path
    assert path.read_bytes() == before
    assert len(_log(tmp_path)) == 1


def test_model_lost_after_the_last_step_is_written_again(photos: Path, tmp_path: Path) -> None:
    train(_config(photos, tmp_path, steps=1)).unlink()
    assert train(_config(photos, tmp_path, steps=1)).is_file()


@pytest.mark.parametrize("stage", ["base", "qusr"])
def test_training_on_top_of_a_qusr_model_keeps_its_lora(photos: Path, base: Path, tmp_path: Path, stage: str) -> None:
    start = load_nano(base)
    strong = LoraLayer(torch.full((1, 48, 3, 3), 0.3), torch.full((48, 1, 1, 1), 0.3), alpha=1.0)
    start.lora = {"conv_in": strong}
    save_nano(tmp_path / "init.safetensors", start)
    init = str(tmp_path / "init.safetensors")
    end = load_nano(train(_config(photos, tmp_path, steps=1, stage=stage, init=init, learning_rate=1e-9)))

    def effect(model: NanoCheckpoint) -> Tensor:
        weight = model.unet["conv_in.weight"]
        return weight + model.lora["conv_in"].delta() if "conv_in" in model.lora else weight

    torch.testing.assert_close(effect(end), effect(start), atol=1e-2, rtol=0)


def test_no_usable_photo_is_an_error(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no photo is at least 128 pixels"):
        train(dataclasses.replace(_config(photos, tmp_path), patch=128))
