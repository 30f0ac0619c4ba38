"""Training qusr-nano: the base (UNet + text encoder), and QUSR on top of one (LoRA + UEM + noise)."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from ..checkpoints.nano_file import NanoCheckpoint, load_nano, save_nano
from ..data.prompts import SYNONYMS
from ..data.samples import Batch, Sample
from ..model.error_map import ErrorUEM
from ..model.lora import merge
from ..model.merged_lora import add_merged_lora, extract_merged_lora
from ..model.nano import NanoConfig, NanoUNet, PixelUnshuffleVAE
from ..model.noise import NoiseParameters, guided_step
from ..model.text_encoder import TextEncoder, build_text_encoder, strip_text_prefix
from ..model.tokenizer import VOCABULARY_SIZE, encode_tokens
from ..model.uncertainty import UEM
from ..restore import Restorer
from . import losses
from .config import TrainConfig
from .crops import same_crops
from .discriminator import Adversary
from .features import FeatureLoss
from .samples import varied_samples
from .steering import EVERY, PICTURES, draw_steering, steering_loss
from .step import Autocast, StepNoise, StepResult

NEW = NanoConfig(film=128, uem="error", uem_channels=24)
"""Shape of a model that is trained from scratch. `NanoConfig()` is what files of version 0.1.0 mean."""
FEATURE_SHIFT = 8
"""Pixels by which crops for the feature loss are moved at random, so that its strides meet every position."""


def _initial_text_encoder(config: NanoConfig) -> TextEncoder:
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
    from ..captions import measured as quality
    from ..captions.instruction import INSTRUCTION

    phrases: list[str] = [INSTRUCTION]
    for words in (
        quality.CLARITY_WORDS, quality.NOISE_WORDS, quality.BLOCKING_WORDS,
        quality.COLOR_WORDS, quality.EXPOSURE_WORDS, quality.CONTRAST_WORDS,
    ):  # fmt: skip
        phrases += words
    for phrase, others in SYNONYMS.items():
        phrases += [phrase, *others]
    phrases += [
        "The low-resolution image has. The color is with a reddish cast, bluish, greenish, yellowish.",
        "There is and. The lighting is with and clipped areas. color noise horizontally vertically",
        "The image has, a photo with.",
    ]
    known = torch.zeros(VOCABULARY_SIZE, dtype=torch.bool)
    known[encode_tokens(phrases).flatten()] = True
    return known


class QUSRNano(nn.Module):
    """All trainable parts in one module, so that one `prepare`, one state and one EMA cover them."""

    def __init__(self, unet: NanoUNet, text_encoder: nn.Module, uem: UEM | ErrorUEM) -> None:
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
        u = None
        if noise is not None:
            # In float32: little work, and the gradient of a dilated bf16 convolution (24 channels, channels_last) is
            # NaN in torch 2.14 on the CPU.
            with torch.autocast(x_lq.device.type, enabled=False):
                u = self.uem(x_lq.float())
        # The map must stay a report of the error: without the detach the pixel loss would push it
        # to 0 just to be rid of the noise.
        u_encoded = None if u is None else vae.encode(u.detach())
        z_hq = guided_step(z_lq, u_encoded, noise, parameters, lambda z_g: self.unet(z_g, context=context))
        return vae.decode(z_hq), None if u is None else u.float()


def _start_unsure(uem: UEM | ErrorUEM) -> None:
    """Let an untrained UEM report about the same, positive uncertainty everywhere.

    The loss reads |U|, so a map that crosses zero would show a false line of certainty there.
    """
    if isinstance(uem, ErrorUEM):
        uem.start_even()
        return
    last = uem.decoder[-1]
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    with torch.no_grad():
        last.weight.mul_(0.1)
        last.bias.fill_(0.7)


class NanoTask:
    """The two stages of nano's training.

    Raises:
        CheckpointError: `init` is not a nano model.
        InputError: the packages of the feature loss are missing.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.features = FeatureLoss() if config.feature_weight else None
        torch.manual_seed(config.seed)
        self.start = load_nano(config.init) if config.init else None
        shape = self._shape()
        unet, uem = NanoUNet(shape), shape.build_uem()
        if self.start:
            if shape.film and not self.start.config.film:
                unet.film_as_identity()
            unet.load_state_dict({**unet.state_dict(), **self.start.unet})
            if not config.continue_lora:
                merge(unet, self.start.lora)  # an earlier fine-tuning becomes part of the base
            self.start.unet = {k: v.clone() for k, v in unet.state_dict().items()}
            text_encoder = build_text_encoder(shape, self.start.text_encoder)
            kept = (shape.uem, shape.uem_channels) == (self.start.config.uem, self.start.config.uem_channels)
            if kept and "qusr" in self.start.training:
                uem.load_state_dict(self.start.uem)
            else:
                _start_unsure(uem)
        else:
            unet.start_as_identity()
            text_encoder = _initial_text_encoder(shape)
            _start_unsure(uem)
        self.model = QUSRNano(unet, text_encoder, uem)
        if config.stage == "base":
            uem.requires_grad_(False)
        else:
            text_encoder.requires_grad_(False)
            add_merged_lora(unet, config.rank, self.start.lora if self.start and config.continue_lora else None)
        self.noise = NoiseParameters(variant=config.noise_variant, k=config.noise_k, m=config.noise_m, p=config.noise_p)
        self.adversary = Adversary(config) if config.adversarial_weight else None

    def _shape(self) -> NanoConfig:
        """The new model's shape: that of `init`, with the parts that the settings add."""
        if self.start is None:
            return NEW
        shape, config = self.start.config, self.config
        if config.add_error_map and shape.uem != NEW.uem:
            shape = dataclasses.replace(shape, uem=NEW.uem, uem_channels=NEW.uem_channels)
        if config.add_film and not shape.film:
            shape = dataclasses.replace(shape, film=NEW.film)
        return shape

    def prepare(self, device: torch.device) -> None:
        """Layout of the weights, before the optimiser is made."""
        self.model.to(memory_format=torch.channels_last)  # about 1.2 x on the CPU
        for part in (self.features, self.adversary):
            if part is not None:
                part.to(device)

    def compile(self) -> None:
        self.model.unet.compile()

    def dataset(self, length: int) -> Dataset[Sample]:
        return varied_samples(self.config, length)

    def step(self, model: nn.Module, batch: Batch, noise: StepNoise, autocast: Autocast) -> StepResult:
        """Loss of a batch: how near the picture is, how real it looks, and in stage `qusr` what the map knows of that.

        Args:
            model: `self.model`, wrapped for distribution.
        """
        config, x_lq, x_gt = self.config, batch.x_lq, batch.x_gt
        tokens = encode_tokens(batch.prompts).to(x_lq.device)
        normal = None
        if config.stage == "qusr":
            shape = self.model.unet.config
            h, w = x_lq.shape[-2] // shape.shuffle, x_lq.shape[-1] // shape.shuffle
            normal = noise.normal(shape.latent_channels, h, w).to(x_lq.device)
        with autocast():
            x_hq, u = model(x_lq.contiguous(memory_format=torch.channels_last), tokens, normal, self.noise)
        weights = losses.patch_weights(x_lq, x_gt) if config.balance_patches else None
        # A mean of what may be there has no crisp edge; a teacher's choice, made for each input alone, can be learned.
        aim = x_gt if batch.x_teacher is None else x_gt.lerp(batch.x_teacher, config.teacher_share)
        pixel = losses.charbonnier_loss(x_hq, aim, weights=weights)
        main = losses.psnr_loss(x_hq, aim) if config.pixel_loss == "psnr" else pixel
        loss = main + config.gradient_weight * losses.gradient_loss(x_hq, aim, weights)
        if config.ssim_weight:
            loss = loss + config.ssim_weight * losses.ssim_loss(x_hq, aim)
        with torch.no_grad():
            bicubic = losses.charbonnier_loss(x_lq, aim, weights=weights)
            figures = {"pixel_loss": pixel.detach(), "gain_over_bicubic": bicubic / pixel.detach()}
        if config.steering_weight and noise.step % EVERY == 0:
            order = self._steering_loss(model, x_lq, normal, noise, autocast)
            loss = loss + config.steering_weight * order
            figures["steering_loss"] = order.detach()
        if self.features is not None:
            moved = same_crops([x_hq, x_gt], config.patch - FEATURE_SHIFT, noise)
            with autocast():
                distance = self.features(*moved)
            loss = loss + config.feature_weight * distance
            figures["feature_loss"] = distance.detach()
        if self.adversary is not None:
            near, target, given = same_crops([x_hq, x_gt, x_lq], config.adversarial_crop, noise)
            weight = self.adversary.weight(noise.step)
            if weight:
                misled = self.adversary.loss(near, given, autocast)
                loss = loss + weight * misled
                figures["adversarial_loss"] = misled.detach()
            figures |= self.adversary.learn(near, target, given, autocast)
        if u is not None:
            uncertainty = self._uncertainty_loss(x_hq, x_gt, u)
            loss = loss + config.uncertainty_weight * uncertainty
            figures["uncertainty_loss"] = uncertainty.detach()
        return StepResult(loss, figures, x_hq.detach(), None if u is None else u.detach())

    @contextmanager
    def restorer(self, weights: dict[str, Tensor]) -> Iterator[Restorer]:
        """What `restore` does with the exported file."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "nano.safetensors"
            self.export(weights, path, {})
            yield Restorer(load_nano(path), next(self.model.parameters()).device)

    def _steering_loss(
        self, model: nn.Module, x_lq: Tensor, normal: Tensor | None, noise: StepNoise, autocast: Autocast
    ) -> Tensor:
        """The first pictures of the batch, each with two prompts."""
        steering = draw_steering(noise.generator)
        few = x_lq[:PICTURES]
        tokens = encode_tokens([steering.more] * len(few) + [steering.less] * len(few)).to(x_lq.device)
        twice = None if normal is None else normal[:PICTURES].repeat(2, 1, 1, 1)
        with autocast():
            both, _ = model(
                few.repeat(2, 1, 1, 1).contiguous(memory_format=torch.channels_last), tokens, twice, self.noise
            )
        more, less = both.chunk(2)
        return steering_loss(more, less, steering)

    def _uncertainty_loss(self, x_hq: Tensor, x_gt: Tensor, u: Tensor) -> Tensor:
        if isinstance(self.model.uem, ErrorUEM):
            return losses.laplace_loss(x_hq, x_gt, u)
        u_n = losses.normalized_uncertainty(u, self.config.uncertainty_norm)
        return losses.uncertainty_loss(x_hq.detach(), x_gt, u_n, self.config.uncertainty_alpha)

    def export(self, weights: dict[str, Tensor], path: Path, summary: dict[str, Any]) -> None:
        """Write the nano file from (averaged) weights, putting them into the model only for the moment."""
        model, config, start = self.model, self.config, self.start
        trained = {k: v.detach().clone() for k, v in model.state_dict().items()}
        model.load_state_dict({**trained, **weights})
        lora = {}
        if config.stage == "qusr":
            assert start is not None
            lora, unet = extract_merged_lora(model.unet), start.unet
        else:
            unet = {k: v.detach().clone() for k, v in model.unet.state_dict().items()}
        history = start.training if start else {}
        checkpoint = NanoCheckpoint(
            config=model.unet.config,
            noise=dataclasses.replace(self.noise, p=0.0)
            if config.stage == "base"
            else dataclasses.replace(self.noise, grain=config.noise_grain),
            unet=unet,
            text_encoder=strip_text_prefix({k: v.detach().clone() for k, v in model.text_encoder.state_dict().items()}),
            uem={k: v.detach().clone() for k, v in model.uem.state_dict().items()},
            lora=lora,
            training={**history, config.stage: summary},
        )
        save_nano(path, checkpoint)
        model.load_state_dict(trained)
