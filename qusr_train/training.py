"""Train qusr-nano: first the base (UNet + text encoder), then QUSR on top (LoRA + UEM + noise).

Resumes from its last checkpoint when started again with the same `out`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import pickle
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from . import data, losses
from .checkpoint import NanoCheckpoint, load_nano, save_nano, strip_text_prefix
from .config import TrainConfig
from .files import write_whole
from .lora import add_adapters, extract_adapters, merge
from .nano import NanoConfig, NanoUNet, PixelUnshuffleVAE
from .noise import NoiseParameters, injected_noise, noise_sigma, residual_step
from .prompt import VOCABULARY_SIZE, encode_tokens
from .restore import build_text_encoder
from .uncertainty import UEM

log = logging.getLogger(__name__)


def _initial_text_encoder(config: NanoConfig) -> nn.Module:
    """Random text encoder whose token embedding is 0 except for the words the captions use.

    A word that training never saw keeps a zero embedding: it is neutral, not random.
    """
    encoder = build_text_encoder(config)
    embedding = encoder.get_input_embeddings().weight
    with torch.no_grad():
        rows = torch.randn(embedding.shape, generator=torch.Generator().manual_seed(0)) * 0.3
        embedding.copy_(rows)
        embedding[~_known_tokens()] = 0.0
    return encoder


def _known_tokens() -> Tensor:
    from . import quality

    phrases: list[str] = [quality.INSTRUCTION]
    for words in (
        quality.CLARITY_WORDS, quality.NOISE_WORDS, quality.BLOCKING_WORDS,
        quality.COLOR_WORDS, quality.EXPOSURE_WORDS, quality.CONTRAST_WORDS,
    ):  # fmt: skip
        phrases += words
    for phrase, others in data.SYNONYMS.items():
        phrases += [phrase, *others]
    phrases += [
        "The low-resolution image has. The color is with a reddish cast, bluish, greenish, yellowish.",
        "There is and. The lighting is with and clipped areas. color noise horizontally vertically",
    ]
    known = torch.zeros(VOCABULARY_SIZE, dtype=torch.bool)
    known[encode_tokens(phrases).flatten()] = True
    return known


class QUSRModel(nn.Module):
    """All trainable parts in one module, so that one `prepare`, one state and one EMA cover them."""

    def __init__(self, unet: NanoUNet, text_encoder: nn.Module, uem: UEM) -> None:
        super().__init__()
        self.unet, self.text_encoder, self.uem = unet, text_encoder, uem

    def forward(
        self, x_lq: Tensor, token_ids: Tensor, noise: Tensor | None, parameters: NoiseParameters
    ) -> tuple[Tensor, Tensor | None]:
        """Restore a batch.

        Args:
            x_lq: (B, 3, H, W) in [-1, 1].
            token_ids: (B, 77).
            noise: (B, C, h, w) standard normal for stage `qusr`, None for `base`.

        Returns:
            x_hq (B, 3, H, W) and the raw map U (None without noise).
        """
        vae = PixelUnshuffleVAE(self.unet.config.shuffle)
        context = self.text_encoder(input_ids=token_ids).last_hidden_state
        z_lq = vae.encode(x_lq)
        if noise is None:
            return vae.decode(z_lq - self.unet(z_lq, context=context).float()), None
        u = self.uem(x_lq)
        # The map must stay a report of the error: without the detach the pixel loss would push it
        # to 0 just to be rid of the noise.
        sigma = noise_sigma(vae.encode(u.detach()), parameters)
        injected = injected_noise(noise, sigma, parameters.p)
        z_g = z_lq + injected
        eps = self.unet(z_g, context=context).float()
        return vae.decode(residual_step(z_g, eps, injected, parameters.variant)), u.float()


def _learning_rate_factor(step: int, config: TrainConfig) -> float:
    if step < config.warmup:
        return (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def _start_unsure(uem: UEM) -> None:
    """Let an untrained UEM report about the same, positive uncertainty everywhere.

    The loss reads |U|, so a map that crosses zero would show a false line of certainty there.
    """
    last = uem.decoder[-1]
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    with torch.no_grad():
        last.weight.mul_(0.1)
        last.bias.fill_(0.7)


def _build(config: TrainConfig) -> tuple[QUSRModel, NanoCheckpoint | None]:
    torch.manual_seed(config.seed)
    start = load_nano(config.init) if config.init else None
    shape = start.config if start else NanoConfig()
    unet, uem = NanoUNet(shape), UEM(shape.uem_channels)
    if start:
        unet.load_state_dict(start.unet)
        merge(unet, start.lora)  # an earlier fine-tuning becomes part of the base
        start.unet = {k: v.clone() for k, v in unet.state_dict().items()}
        text_encoder = build_text_encoder(shape, start.text_encoder)
        if "qusr" in start.training:
            uem.load_state_dict(start.uem)
        else:
            _start_unsure(uem)
    else:
        unet.start_as_identity()
        text_encoder = _initial_text_encoder(shape)
    model = QUSRModel(unet, text_encoder, uem)
    if config.stage == "base":
        uem.requires_grad_(False)
    else:
        text_encoder.requires_grad_(False)
        add_adapters(unet, rank=config.rank)
    return model, start


def _export(model: QUSRModel, weights: dict[str, Tensor], start: NanoCheckpoint | None, config: TrainConfig,
            path: Path, summary: dict[str, Any]) -> None:  # fmt: skip
    """Write the nano file from (averaged) weights, putting them into the model only for the moment."""
    trained = {k: v.detach().clone() for k, v in model.state_dict().items()}
    model.load_state_dict({**trained, **weights})
    lora = {}
    if config.stage == "qusr":
        assert start is not None
        lora, unet = extract_adapters(model.unet), start.unet
    else:
        unet = {k: v.detach().clone() for k, v in model.unet.state_dict().items()}
    noise = NoiseParameters(variant=config.noise_variant, k=config.noise_k, p=config.noise_p)
    if config.stage == "base":
        noise = dataclasses.replace(noise, p=0.0)
    history = start.training if start else {}
    checkpoint = NanoCheckpoint(
        config=model.unet.config,
        noise=noise,
        unet=unet,
        text_encoder=strip_text_prefix({k: v.detach().clone() for k, v in model.text_encoder.state_dict().items()}),
        uem={k: v.detach().clone() for k, v in model.uem.state_dict().items()},
        lora=lora,
        training={**history, config.stage: summary},
    )
    save_nano(path, checkpoint)
    model.load_state_dict(trained)


def train(config: TrainConfig) -> Path:
    """Run one stage to its end.

    Returns:
        The finished model's path, `OUT/STAGE.safetensors`.

    Raises:
        ValueError: no usable photos, or a checkpoint of another configuration in `out`.
        RuntimeError: the loss became NaN.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import set_seed
    from tqdm.auto import tqdm

    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    AcceleratorState._reset_state(True)  # a second run in one process may ask for another precision
    accelerator = Accelerator(mixed_precision=config.precision)
    set_seed(config.seed)
    model, start = _build(config)
    model.to(memory_format=torch.channels_last)  # about 1.2 x on the CPU
    parameters = [p for p in model.parameters() if p.requires_grad]
    # The UEM is new when the rest is fine-tuned: it gets a larger share of the learning rate.
    groups = [
        {"params": [p for p in model.uem.parameters() if p.requires_grad], "share": 3.0},
        {
            "params": [p for m in (model.unet, model.text_encoder) for p in m.parameters() if p.requires_grad],
            "share": 1.0,
        },
    ]
    optimizer = torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4
    )
    noise_parameters = NoiseParameters(variant=config.noise_variant, k=config.noise_k, p=config.noise_p)

    names = {name for name, p in model.named_parameters() if p.requires_grad}
    state_file = out / f"{config.stage}.state.pt"
    first, average = 0, {k: v.detach().clone() for k, v in model.state_dict().items() if k in names}
    if state_file.exists():
        state = _load_state(state_file, config)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first, average = state["step"], state["average"]
        log.info("resuming at step %d", first)

    photos = data.load_photos(Path(config.photos), config.photo_factors, config.patch)
    samples = data.PhotoPatches(photos, config.patch, config.steps * config.batch_size, config.seed)
    rest = Subset(samples, range(first * config.batch_size, len(samples)))
    loader = DataLoader(
        rest, batch_size=config.batch_size, num_workers=config.workers, collate_fn=data.collate,
        worker_init_fn=_one_thread, persistent_workers=False,
    )  # fmt: skip
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    raw = accelerator.unwrap_model(model)
    average = {k: v.to(accelerator.device) for k, v in average.items()}

    bar = tqdm(total=config.steps, initial=first, disable=not accelerator.is_main_process, mininterval=10)
    shown: dict[str, float] = {}
    started = time.monotonic()
    for step, (x_lq, x_gt, prompts) in enumerate(loader, start=first):
        for group in optimizer.param_groups:
            group["lr"] = group["share"] * config.learning_rate * _learning_rate_factor(step, config)
        tokens = encode_tokens(prompts).to(accelerator.device)
        noise = None
        if config.stage == "qusr":
            generator = torch.Generator().manual_seed(config.seed * 7_919 + step)
            shape = raw.unet.config
            h, w = x_lq.shape[-2] // shape.shuffle, x_lq.shape[-1] // shape.shuffle
            noise = torch.randn((len(x_lq), shape.latent_channels, h, w), generator=generator).to(x_lq.device)
        with accelerator.autocast():
            x_hq, u = model(x_lq.contiguous(memory_format=torch.channels_last), tokens, noise, noise_parameters)
        pixel = losses.charbonnier_loss(x_hq, x_gt)
        loss = pixel + config.gradient_weight * losses.gradient_loss(x_hq, x_gt)
        if config.ssim_weight:
            loss = loss + config.ssim_weight * losses.ssim_loss(x_hq, x_gt)
        if u is not None:
            loss = loss + config.uncertainty_weight * losses.uncertainty_loss(
                x_hq.detach(), x_gt, u.abs(), config.uncertainty_alpha
            )
        if not torch.isfinite(loss):
            torch.save({"x_lq": x_lq, "x_gt": x_gt, "prompts": prompts}, out / "nan-batch.pt")
            raise RuntimeError(f"loss became {loss.item()} at step {step}; the batch is in {out / 'nan-batch.pt'}")
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        decay = min(config.ema, (step + 1) / (step + 10))
        with torch.no_grad():
            for name, value in raw.named_parameters():
                if name in names:
                    average[name].lerp_(value, 1 - decay)
        with torch.no_grad():
            bicubic = losses.charbonnier_loss(x_lq, x_gt)
        for key, value in (("pixel", pixel.item()), ("gain", (bicubic / pixel.detach()).item())):
            shown[key] = 0.99 * shown.get(key, value) + 0.01 * value
        bar.update()
        bar.set_postfix({k: f"{v:.4f}" for k, v in shown.items()}, refresh=False)
        done = step + 1
        if accelerator.is_main_process and (done % config.save_every == 0 or done == config.steps):
            summary = {
                "steps": done, "batch_size": config.batch_size, "patch": config.patch, "seed": config.seed,
                "learning_rate": config.learning_rate, "pixel_loss": round(shown["pixel"], 5),
                "gain_over_bicubic": round(shown["gain"], 4),
            }  # fmt: skip
            _save_state(state_file, raw, optimizer, done, average, config)
            _export(raw, average if config.ema else {}, start, config, out / f"{config.stage}.safetensors", summary)
            line = {**summary, "seconds": round(time.monotonic() - started)}
            with (out / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
    bar.close()
    finished = out / f"{config.stage}.safetensors"
    if first >= config.steps and not finished.exists():  # stopped between the last state and its export
        _export(raw, average if config.ema else {}, start, config, finished, {"steps": first})
    return finished


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)


# What may differ between a run and its continuation; everything else would mix two different runs.
_FREE_TO_CHANGE = {"photos", "out", "steps", "workers", "save_every", "precision"}


def _identity(config: TrainConfig) -> str:
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in _FREE_TO_CHANGE}
    return json.dumps(settings, sort_keys=True)


def _load_state(path: Path, config: TrainConfig) -> dict[str, Any]:
    """Read a run's state. Raises ValueError when it is damaged or belongs to other settings."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        identity = state["config"]
    except (OSError, EOFError, RuntimeError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path}: damaged or not a training state ({error}); delete it to start again") from error
    if identity != _identity(config):
        raise ValueError(
            f"{path}: belongs to a run with other settings; use another --out, or delete it to start again"
        )
    return state


def _save_state(
    path: Path, model: nn.Module, optimizer: Any, step: int, average: dict[str, Tensor], config: TrainConfig
) -> None:
    """Everything a resumed run needs, written whole or not at all."""
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "average": average}
    with write_whole(path) as temporary:
        torch.save({**state, "config": _identity(config)}, temporary)
