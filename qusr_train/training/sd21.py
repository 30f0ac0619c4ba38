"""Training QUSR on SD 2.1-base: LoRA on the UNet, and the UEM, with the losses of equation 9."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from ..checkpoints.load import load_checkpoint
from ..checkpoints.qusr_file import QUSRCheckpoint, save_qusr
from ..data import latent_cache
from ..data.latent_cache import Processes
from ..data.pairs import PairPatches
from ..data.samples import Batch, Sample
from ..errors import InputError
from ..model.lora import add_adapters, extract_adapters, load_adapters
from ..model.noise import NoiseParameters
from ..model.stable_diffusion import (
    TIMESTEP,
    QUSRStableDiffusion,
    StableDiffusion,
    load_stable_diffusion,
    sample_latent,
    without_adapters,
)
from ..model.uncertainty import UEM
from ..restore_sd21 import SD21Restorer
from . import losses
from .config import TrainConfig
from .discriminator import Adversary
from .perceptual import PerceptualLoss, find_backbone
from .samples import file_samples
from .sharding import shard_frozen
from .step import Autocast, StepNoise, StepResult

log = logging.getLogger(__name__)

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TEXT_CACHE = 4096
"""Encoded prompts kept in the host's memory: 77 x 1024 halves each, 0.6 GB when full."""


class SD21Task:
    """QUSR on SD 2.1-base.

    Args:
        config: settings; `init` is the diffusers folder.
        base: the loaded model, instead of `init` (tests and benchmarks make one with random weights).
        perceptual: LPIPS, instead of the one with the weights that `config` names.

    Raises:
        ValueError: the folder is not SD 2.1-base, or LPIPS' backbone is missing.
    """

    def __init__(
        self, config: TrainConfig, base: StableDiffusion | None = None, perceptual: PerceptualLoss | None = None
    ) -> None:
        self.config = config
        self.adversary: Adversary | None = None
        if perceptual is None and config.lpips_weight:
            perceptual = PerceptualLoss(find_backbone(config.lpips_backbone))
        self.perceptual = perceptual
        self.base = base or load_stable_diffusion(Path(config.init))
        torch.manual_seed(config.seed)
        add_adapters(self.base.unet, rank=config.rank)
        self.noise = NoiseParameters(variant=config.noise_variant, k=config.noise_k, m=config.noise_m, p=config.noise_p)
        uem = UEM(config.uem_channels)
        if config.init_checkpoint:
            self._continue_from(load_checkpoint(config.init_checkpoint), uem)
        self.model = QUSRStableDiffusion(self.base, uem, self.noise, config.noise_gradient)
        if not config.uncertainty_weight and not (config.noise_gradient and config.noise_p):
            uem.requires_grad_(False)  # nothing would train it
        if config.gradient_checkpointing:
            self.base.unet.enable_gradient_checkpointing()
            self.base.vae.enable_gradient_checkpointing()
        self._text: dict[str, Tensor] = {}

    def _continue_from(self, checkpoint: QUSRCheckpoint, uem: UEM) -> None:
        """Take LoRA and UEM from a QUSR file. Raises InputError when they do not fit the settings."""
        config, path = self.config, self.config.init_checkpoint
        if checkpoint.method != "qusr":
            raise InputError(f"is a {checkpoint.method} file; give one of QUSR", "init_checkpoint", path)
        rank = max(layer.down.shape[0] for layer in checkpoint.lora.values())
        if rank != config.rank:
            raise InputError(f"its LoRA has rank {rank}, but the setting is {config.rank}", "init_checkpoint", path)
        if checkpoint.uem and checkpoint.hidden_channels != config.uem_channels:
            found = f"its UEM has {checkpoint.hidden_channels} channels, but the setting is {config.uem_channels}"
            raise InputError(found, "init_checkpoint", path)
        if checkpoint.noise.variant != self.noise.variant:
            log.warning("%s was trained with variant %s; going on with %s", path, checkpoint.noise.variant,
                        self.noise.variant)  # fmt: skip
        try:
            load_adapters(self.base.unet, checkpoint.lora)
        except ValueError as error:
            raise InputError(f"does not fit SD 2.1-base ({error})", "init_checkpoint", path) from error
        if checkpoint.uem:
            uem.load_state_dict(checkpoint.uem)

    def prepare(self, device: torch.device) -> None:
        """Frozen weights in half precision under mixed precision, trained ones in float32."""
        self.base.to(device, DTYPES[self.config.precision], exact_encoder=self.config.noise_gradient)
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        self.model.uem.to(device)
        if self.config.shard:
            shard_frozen(self.model, self.base.unet, device)
        if self.perceptual is not None:
            self.perceptual.to(device).to(memory_format=torch.channels_last)
        self.model.train()  # diffusers recomputes activations only in training mode; there is no dropout
        self.base.vae.train()

    def compile(self, backend: str = "inductor") -> None:
        for part in (self.base.unet, self.base.vae.encoder, self.base.vae.decoder):
            part.compile(backend=backend)

    def dataset(self, length: int) -> Dataset[Sample]:
        samples = file_samples(self.config, length)
        if self.config.cache_latents:
            assert isinstance(samples, PairPatches)
            latent_cache.fill(
                Path(self.config.out) / "cache", samples, self.base, Path(self.config.init), Processes.of_launch()
            )
        return samples

    def encode_text(self, prompts: list[str]) -> Tensor:
        """(B, 77, C); each prompt is encoded once and remembered on the host, in the precision it is used in."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._text]
        if new:
            if len(self._text) + len(new) > TEXT_CACHE:
                self._text.clear()
                new = list(dict.fromkeys(prompts))
            encoded = self.base.encode_text(new).to("cpu", DTYPES[self.config.precision])
            self._text.update(zip(new, encoded, strict=True))
        batch = torch.stack([self._text[prompt] for prompt in prompts])
        if self.base.device.type == "cuda":
            batch = batch.pin_memory()
        return batch.to(self.base.device, non_blocking=True)

    def step(self, model: nn.Module, batch: Batch, noise: StepNoise, autocast: Autocast) -> StepResult:
        """Equation 9: l2, LPIPS, CSD and the uncertainty loss, each times its weight; a weight of 0 skips one.

        Args:
            model: `self.model`, wrapped for distribution.
        """
        config, base, x_lq, x_gt = self.config, self.base, batch.x_lq, batch.x_gt
        device = x_lq.device
        latent = (4, x_lq.shape[-2] // 8, x_lq.shape[-1] // 8)
        draws = [noise.normal(*latent).to(device) for _ in range(4)]
        timesteps = noise.integers(*(round(share * len(base.alphas_cumprod)) for share in config.csd_timesteps))
        with autocast():
            context = self.encode_text(batch.prompts)
            with torch.no_grad():
                mean, std = batch.moments.float().unbind(1) if batch.moments is not None else base.moments(x_lq)
                z_lq = sample_latent(mean, std, draws[0], base.latent_scale)
            x_hq, z_hq, u = model(x_lq, z_lq, context, draws[1], draws[2])
            parts: dict[str, tuple[float, Tensor]] = {}
            if config.lpips_weight:
                assert self.perceptual is not None
                parts["lpips"] = config.lpips_weight, self.perceptual(x_hq, x_gt)
            if config.csd_weight:
                csd = self._csd(z_hq, draws[3], timesteps.to(device))
                parts["csd"] = config.csd_weight, csd
        if config.l2_weight:
            parts["l2"] = config.l2_weight, losses.l2_loss(x_hq, x_gt)
        if config.uncertainty_weight:
            u_n = losses.normalized_uncertainty(u, config.uncertainty_norm)
            value = losses.uncertainty_loss(x_hq, x_gt, u_n, config.uncertainty_alpha)
            parts["uncertainty"] = config.uncertainty_weight, value
        if not parts:
            raise InputError("all loss weights are 0: there is nothing to train for")
        loss = torch.stack([weight * value.float() for weight, value in parts.values()]).sum()
        figures = {f"{name}_loss": value.detach() for name, (_, value) in parts.items()}
        return StepResult(loss, {"loss": loss.detach(), **figures}, x_hq.detach(), u.detach())

    def _csd(self, z_hq: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        config, base = self.config, self.base
        count = len(z_hq)
        prompts = [config.csd_prompt] * count + [config.csd_negative_prompt] * count
        context = self.encode_text(prompts)

        def predict(z_t: Tensor) -> tuple[Tensor, Tensor]:
            with without_adapters(base.unet):
                eps = base.unet(z_t.repeat(2, 1, 1, 1), timesteps.repeat(2), encoder_hidden_states=context).sample
            positive, negative = eps.chunk(2)
            return positive, negative

        return losses.csd_loss(z_hq, noise, base.alphas_cumprod[timesteps], predict, config.csd_guidance)

    @contextmanager
    def _holding(self, weights: dict[str, Tensor]) -> Iterator[None]:
        """The model has these (averaged) weights inside the block."""
        model = self.model
        trained = {name: p.detach().clone() for name, p in model.named_parameters() if name in weights}
        model.load_state_dict(weights, strict=False)
        try:
            yield
        finally:
            model.load_state_dict(trained, strict=False)

    @contextmanager
    def restorer(self, weights: dict[str, Tensor]) -> Iterator[SD21Restorer]:
        """What `restore` would do with the exported file, on the model in training: no second copy of it."""
        with self._holding(weights), torch.no_grad():
            yield SD21Restorer(self.base, self.model.uem, self.noise, timestep=TIMESTEP)

    def export(self, weights: dict[str, Tensor], path: Path, summary: dict[str, Any]) -> None:
        """Write LoRA and UEM as a QUSR checkpoint, from (averaged) weights."""
        with self._holding(weights):
            checkpoint = QUSRCheckpoint(
                lora=extract_adapters(self.model.unet),
                noise=self.noise,
                uem={k: v.detach().cpu().clone() for k, v in self.model.uem.state_dict().items()},
                timestep=TIMESTEP,
                training={"sd21": summary},
            )
            save_qusr(path, checkpoint)
