"""Training on SD 2.1's block structure, tiny and with random weights: formulas, LoRA, losses, files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from qusr_train.checkpoints.load import load_checkpoint
from qusr_train.checkpoints.qusr_file import load_qusr
from qusr_train.data import latent_cache
from qusr_train.data.pairs import PairPatches
from qusr_train.data.samples import Batch
from qusr_train.model.lora import add_adapters, target_layers
from qusr_train.model.noise import NoiseParameters
from qusr_train.model.stable_diffusion import (
    QUSRStableDiffusion,
    load_stable_diffusion,
    sample_latent,
    without_adapters,
)
from qusr_train.model.uncertainty import UEM
from qusr_train.training import losses
from qusr_train.training.config import TrainConfig, load_config_file
from qusr_train.training.loop import train
from qusr_train.training.perceptual import PerceptualLoss
from qusr_train.training.sd21 import SD21Task
from qusr_train.training.step import StepNoise

GOLDEN = Path(__file__).resolve().parents[2] / "golden"

pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`")


@pytest.fixture(scope="module")
def folder(tiny_sd21: Path) -> Path:
    return tiny_sd21


@pytest.fixture(scope="module")
def pairs(tiny_pairs: Path) -> Path:
    return tiny_pairs


def _config(folder: Path, pairs: Path, out: Path, **changes: Any) -> TrainConfig:
    shipped = load_config_file("sd21")
    tiny = {"batch_size": 2, "patch": 64, "steps": 2, "workers": 0, "precision": "no", "learning_rate": 1e-3}
    tiny |= {"lpips_weight": 0.0, "uem_channels": 4, "sample_every": 1, "log_every": 1, "tracker": "none"}
    where = {"init": str(folder), "pairs": str(pairs), "out": str(out)}
    return TrainConfig.from_mapping({**shipped, **tiny, **where, **changes})


def _batch(prompts: tuple[str, str] = ("blurry", "sharp")) -> Batch:
    torch.manual_seed(5)
    return Batch(torch.rand(2, 3, 64, 64) * 2 - 1, torch.rand(2, 3, 64, 64) * 2 - 1, list(prompts))


def _noise(step: int = 0) -> StepNoise:
    return StepNoise(1, step, 0, 2, 2)


def _autocast() -> Any:
    from contextlib import nullcontext

    return nullcontext()


def test_lora_is_the_references(folder: Path) -> None:
    """Rank 4, alpha 8, gaussian, on the very layers that the reference's own file has, and only those."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    unet = load_stable_diffusion(folder).unet
    reference = load_checkpoint(GOLDEN / "checkpoints" / "qusr.pkl").lora
    assert target_layers(unet).keys() == reference.keys()
    add_adapters(unet)
    layers = {n: m for n, m in unet.named_modules() if isinstance(m, BaseTunerLayer)}
    assert layers.keys() == reference.keys()
    for name, layer in layers.items():
        (adapter,) = layer.lora_A
        assert adapter in {"default_encoder", "default_decoder", "default_others"}
        assert layer.scaling[adapter] == 2.0
        assert layer.lora_A[adapter].weight.shape == reference[name].down.shape
        assert layer.lora_B[adapter].weight.shape == reference[name].up.shape
        assert layer.lora_B[adapter].weight.abs().max() == 0
    assert {n for n, p in unet.named_parameters() if p.requires_grad} == {
        n for n, _ in unet.named_parameters() if "lora_" in n
    }


def test_forward_is_the_references(folder: Path) -> None:
    """The training step's chain gives the reference's image, from its weights and its own random draws."""
    from qusr_train.images.read import read_image

    run = load_file(GOLDEN / "runs" / "qusr_128.safetensors")
    x_lq = read_image(GOLDEN / "runs" / "qusr_128_lq.png").rgb * 2 - 1
    base = load_stable_diffusion(folder)
    checkpoint = load_checkpoint(GOLDEN / "checkpoints" / "qusr.pkl")
    add_adapters(base.unet)
    state = {}
    for name in base.unet.state_dict():
        layer, _, rest = name.partition(".lora_")
        if rest:
            state[name] = checkpoint.lora[layer].down if rest.startswith("A") else checkpoint.lora[layer].up
    base.unet.load_state_dict(state, strict=False)
    uem = UEM(checkpoint.hidden_channels)
    uem.load_state_dict(checkpoint.uem)
    model = QUSRStableDiffusion(base, uem, checkpoint.noise, noise_gradient=False)
    with torch.no_grad():
        z_lq = sample_latent(*base.moments(x_lq), run["noise_posterior_x_lq"], base.latent_scale)
        x_hq, z_hq, u = model(x_lq, z_lq, run["prompt_embeds"], run["noise_gauss"], run["noise_posterior_U"])
    torch.testing.assert_close(u, run["U"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(z_hq, run["z_hq"], atol=5e-4, rtol=1e-4)
    torch.testing.assert_close(x_hq, run["decoded_raw"].clamp(-1, 1), atol=2e-4, rtol=1e-4)


def test_frozen_unet_is_the_base(folder: Path) -> None:
    """One copy of the weights serves CSD: without its adapters the fine-tuned UNet is the base exactly."""
    base, tuned = load_stable_diffusion(folder).unet, load_stable_diffusion(folder).unet
    add_adapters(tuned)
    trainable = {n for n, p in tuned.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, p in tuned.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.05)
        z, t, text = torch.randn(1, 4, 8, 8), torch.tensor([300]), torch.randn(1, 77, 32)
        expected = base(z, t, encoder_hidden_states=text).sample
        with without_adapters(tuned):
            frozen = tuned(z, t, encoder_hidden_states=text).sample
        active = tuned(z, t, encoder_hidden_states=text).sample
    assert torch.equal(frozen, expected)
    assert (active - expected).abs().max() > 1e-3
    assert {n for n, p in tuned.named_parameters() if p.requires_grad} == trainable


@pytest.mark.parametrize("noise_gradient", [False, True])
def test_every_loss_reaches_what_it_should(folder: Path, pairs: Path, tmp_path: Path, noise_gradient: bool) -> None:
    """Each weight on its own: LoRA and UEM get gradients exactly where the formulas say."""
    reached = {}
    for name in ("l2_weight", "csd_weight", "lpips_weight", "uncertainty_weight"):
        weights = dict.fromkeys(("l2_weight", "csd_weight", "lpips_weight", "uncertainty_weight"), 0.0) | {name: 1.0}
        config = _config(folder, pairs, tmp_path, noise_gradient=noise_gradient, **weights)
        task = SD21Task(config, perceptual=PerceptualLoss(None))
        task.prepare(torch.device("cpu"))
        with torch.no_grad():  # a fresh LoRA's first half gets no gradient
            for key, p in task.model.named_parameters():
                if "lora_B" in key:
                    p.normal_(std=0.02)
        task.step(task.model, _batch(), _noise(), _autocast).loss.backward()
        lora = [p for key, p in task.model.named_parameters() if "lora_" in key]
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in lora), name
        assert all(p.grad is None for key, p in task.model.unet.named_parameters() if "lora_" not in key)
        reached[name] = any(p.grad is not None and p.grad.abs().max() > 0 for p in task.model.uem.parameters())
    assert reached == {name: noise_gradient or name == "uncertainty_weight" for name in reached}


def test_loss_is_the_weighted_sum(folder: Path, pairs: Path, tmp_path: Path) -> None:
    task = SD21Task(_config(folder, pairs, tmp_path, lpips_weight=2.0), perceptual=PerceptualLoss(None))
    task.prepare(torch.device("cpu"))
    result = task.step(task.model, _batch(), _noise(), _autocast)
    f = {name: value.item() for name, value in result.figures.items()}
    expected = 0.5 * f["l2_loss"] + 2 * f["lpips_loss"] + 2 * f["csd_loss"] + 0.3 * f["uncertainty_loss"]
    assert f["loss"] == pytest.approx(expected, rel=1e-5)
    assert result.x_hq is not None
    assert f["l2_loss"] == pytest.approx(losses.l2_loss(result.x_hq, _batch().x_gt).item(), rel=1e-5)


def test_checkpointing_changes_nothing_but_memory(folder: Path, pairs: Path, tmp_path: Path) -> None:
    gradients = []
    for checkpointing in (False, True):
        task = SD21Task(_config(folder, pairs, tmp_path, gradient_checkpointing=checkpointing))
        task.prepare(torch.device("cpu"))
        task.step(task.model, _batch(), _noise(), _autocast).loss.backward()
        gradients.append({n: p.grad for n, p in task.model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, atol=1e-6, rtol=1e-4, msg=name)


def test_text_is_encoded_once(folder: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = SD21Task(_config(folder, pairs, tmp_path))
    task.prepare(torch.device("cpu"))
    calls: list[list[str]] = []
    encode = task.base.encode_text
    monkeypatch.setattr(task.base, "encode_text", lambda prompts: calls.append(prompts) or encode(prompts))
    for step in range(3):
        task.step(task.model, _batch(), _noise(step), _autocast)
    assert calls == [["blurry", "sharp"], [task.config.csd_prompt, task.config.csd_negative_prompt]]
    torch.testing.assert_close(task.encode_text(["sharp"]), encode(["sharp"]))


def test_run_writes_a_checkpoint_that_loads(folder: Path, pairs: Path, tmp_path: Path) -> None:
    path = train(_config(folder, pairs, tmp_path, ema=0.5))
    checkpoint = load_qusr(path)
    assert checkpoint.noise == NoiseParameters(variant="reference", k=1.0, m=0.0, p=0.5, delta=1e-8)
    assert checkpoint.timestep == 1
    assert checkpoint.hidden_channels == 4
    assert checkpoint.training["sd21"]["steps"] == 2
    assert max(layer.delta().abs().max().item() for layer in checkpoint.lora.values()) > 0
    lines = [json.loads(line) for line in (tmp_path / "sd21.metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert {"l2_loss", "csd_loss", "uncertainty_loss", "loss", "learning_rate"} <= lines[0].keys()
    assert sorted(p.name for p in (tmp_path / "samples").iterdir()) == ["sd21-0000001.png", "sd21-0000002.png"]


def test_cached_latents_give_the_same_training(folder: Path, pairs: Path, tmp_path: Path) -> None:
    plain = load_qusr(train(_config(folder, pairs, tmp_path / "plain", batch_size=1, cache_latents=False)))
    config = _config(folder, pairs, tmp_path / "cached", batch_size=1, cache_latents=True)
    cached = load_qusr(train(config))
    assert len(list((tmp_path / "cached" / "cache").glob("*.safetensors"))) == 6
    base = load_stable_diffusion(folder)
    dataset = PairPatches(pairs, 64, 6, config.seed, "empty", fixed=True)
    latent_cache.fill(tmp_path / "cached" / "cache", dataset, base, folder)
    for index in range(6):
        sample = dataset[index]
        assert sample.moments is not None
        with torch.no_grad():
            mean, std = base.moments(sample.x_lq[None])
        torch.testing.assert_close(sample.moments[0].float(), mean[0], atol=5e-3, rtol=2e-3)
        torch.testing.assert_close(sample.moments[1].float(), std[0], atol=5e-3, rtol=2e-3)
    assert plain.lora.keys() == cached.lora.keys()


def test_cached_latents_are_read_not_computed(
    folder: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config(folder, pairs, tmp_path, cache_latents=True, noise_p=0.0, uncertainty_weight=0.0)
    task = SD21Task(config)
    task.prepare(torch.device("cpu"))
    samples = task.dataset(2)

    def refuse(x: torch.Tensor) -> Any:
        raise AssertionError("the VAE encoder ran although the latents are cached")

    monkeypatch.setattr(task.base, "moments", refuse)
    from qusr_train.data.samples import collate

    task.step(task.model, Batch(*collate([samples[0], samples[1]])), _noise(), _autocast)


def test_cache_of_other_pairs_is_refused(folder: Path, pairs: Path, tmp_path: Path) -> None:
    dataset = PairPatches(pairs, 64, 6, 1, "empty", fixed=True)
    base = load_stable_diffusion(folder)
    latent_cache.fill(tmp_path, dataset, base, folder)
    with pytest.raises(ValueError, match="cache of other pairs or another model"):
        latent_cache.fill(tmp_path, dataset, base, folder / "other")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_keeps_trained_weights_in_float32(
    folder: Path, pairs: Path, tmp_path: Path, precision: str
) -> None:
    if precision == "fp16" and not torch.cuda.is_available():
        pytest.skip("fp16 training needs a GPU")
    task = SD21Task(_config(folder, pairs, tmp_path, precision=precision))
    train(task.config, task)
    assert {p.dtype for p in task.model.parameters() if p.requires_grad} == {torch.float32}
    assert task.base.unet.conv_in.base_layer.weight.dtype is torch.bfloat16
    assert task.base.vae.decoder.conv_in.weight.dtype is torch.bfloat16
    assert task.base.vae.encoder.conv_in.weight.dtype is torch.float32  # for the gradient through the noise


def test_the_gradient_through_the_noise_survives_bf16(folder: Path, pairs: Path, tmp_path: Path) -> None:
    """With trained-like weights and a real picture, losses that reach the UEM through the noise only."""
    from qusr_train.images.read import read_image

    start = GOLDEN / "checkpoints" / "qusr.pkl"
    x_lq = (read_image(GOLDEN / "runs" / "qusr_128_lq.png").rgb * 2 - 1)[:, :, 32:96, 32:96]
    batch = Batch(x_lq, (x_lq * 1.1).clamp(-1, 1), ["a blurry photo with noise"])

    def gradient(precision: str) -> torch.Tensor:
        changes: dict[str, Any] = {"l2_weight": 1.0, "csd_weight": 0.0, "uncertainty_weight": 0.0}
        changes |= {"init_checkpoint": str(start), "uem_channels": load_checkpoint(start).hidden_channels}
        task = SD21Task(_config(folder, pairs, tmp_path, precision=precision, noise_gradient=True, **changes))
        task.prepare(torch.device("cpu"))
        on = precision != "no"
        noise = StepNoise(1, 0, 0, 1, 1)
        task.step(task.model, batch, noise, lambda: torch.autocast("cpu", torch.bfloat16, on)).loss.backward()
        return torch.cat([p.grad.flatten() for p in task.model.uem.parameters()])

    true, half = gradient("no"), gradient("bf16")
    assert torch.nn.functional.cosine_similarity(true, half, 0) > 0.9


def test_eight_bit_optimizer(folder: Path, pairs: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    config = _config(folder, pairs, tmp_path, optimizer="adamw8bit", steps=2, save_every=1)
    assert max(layer.delta().abs().max().item() for layer in load_qusr(train(config)).lora.values()) > 0
    train(dataclasses.replace(config, steps=3))  # its state is read back


def test_config_that_trains_nothing_is_refused(folder: Path, pairs: Path, tmp_path: Path) -> None:
    weights = dict.fromkeys(("l2_weight", "csd_weight", "lpips_weight", "uncertainty_weight"), 0.0)
    with pytest.raises(ValueError, match="nothing to train for"):
        train(_config(folder, pairs, tmp_path, **weights))


def test_other_models_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"init .*: expected SD 2.1-base in diffusers form, but unet/config.json"):
        load_stable_diffusion(tmp_path)
    for part in ("unet", "vae", "text_encoder"):
        (tmp_path / part).symlink_to(folder / part, target_is_directory=True)
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text('{"prediction_type": "v_prediction"}')
    with pytest.raises(ValueError, match=r"predicts v_prediction, so it is not SD 2\.1-base but the 768 model"):
        load_stable_diffusion(tmp_path)


def test_noise_schedule_is_stable_diffusions(folder: Path) -> None:
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    torch.testing.assert_close(load_stable_diffusion(folder).alphas_cumprod, scheduler.alphas_cumprod)
