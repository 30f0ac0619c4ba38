"""SD 2.1-base without ComfyUI: loading, the frozen parts, and QUSR's training step on them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from .noise import NoiseParameters, guided_step
from .schedule import alphas_cumprod
from .single_file import read_single_file
from .tokenizer import encode_tokens
from .uncertainty import UEM

TIMESTEP = 1
"""What the UNet is told (the reference trains and runs with t = 1)."""


@dataclass
class StableDiffusion:
    """The parts of a diffusers folder. Everything is frozen; a LoRA may be put onto `unet` afterwards."""

    unet: Any
    """UNet2DConditionModel, predicts epsilon."""
    vae: Any
    """AutoencoderKL."""
    text_encoder: Any
    """CLIPTextModel."""
    alphas_cumprod: Tensor
    """(1000,), of the noise schedule."""

    @property
    def latent_scale(self) -> float:
        return float(self.vae.config.scaling_factor)

    @property
    def device(self) -> torch.device:
        return next(self.vae.parameters()).device

    def to(self, device: torch.device, dtype: torch.dtype, exact_encoder: bool = False) -> None:
        """Move and cast every frozen weight; channels last, which convolutions like.

        Args:
            exact_encoder: keep the VAE's encoder in float32; under autocast it still computes in half precision.
        """
        encoder = torch.float32 if exact_encoder else dtype
        for part in (self.vae.encoder, self.vae.quant_conv):
            part.to(device=device, dtype=encoder)
        for part in (self.vae.decoder, self.vae.post_quant_conv, self.unet, self.text_encoder):
            part.to(device=device, dtype=dtype)
        for part in (self.unet, self.vae):
            part.to(memory_format=torch.channels_last)
        self.alphas_cumprod = self.alphas_cumprod.to(device)

    def encode_text(self, prompts: list[str]) -> Tensor:
        """(B, 77, C), the last hidden state; prompts are cut at 75 tokens and padded with token 0."""
        device = next(self.text_encoder.parameters()).device
        with torch.no_grad():
            return self.text_encoder(input_ids=encode_tokens(prompts).to(device)).last_hidden_state

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the unscaled latent of (B, 3, H, W) in [-1, 1]."""
        posterior = self.vae.encode(x.to(self.vae.dtype)).latent_dist
        return posterior.mean.float(), posterior.std.float()

    def decode(self, z: Tensor) -> Tensor:
        """Scaled latent (B, 4, h, w) -> image (B, 3, 8h, 8w), clamped to [-1, 1] as the reference trains it."""
        return self.decode_unclamped(z).clamp(-1, 1)

    def decode_unclamped(self, z: Tensor) -> Tensor:
        """Likewise, about [-1, 1]: what is infinite is still seen."""
        return self.vae.decode((z / self.latent_scale).to(self.vae.post_quant_conv.weight.dtype)).sample.float()


def sample_latent(mean: Tensor, std: Tensor, noise: Tensor, scale: float) -> Tensor:
    """A draw from the VAE's posterior in the denoiser's latent space: (mean + std n) s."""
    return (mean + std * noise) * scale


def _alphas_cumprod(folder: Path | None, field: str) -> Tensor:
    """Stable Diffusion's scaled-linear schedule, or the one in `scheduler/scheduler_config.json`.

    Raises:
        ValueError: the schedule is not epsilon's or has another form.
    """
    path = folder / "scheduler" / "scheduler_config.json" if folder else None
    config = json.loads(path.read_text(encoding="utf-8")) if path and path.is_file() else {}
    if config.get("prediction_type", "epsilon") != "epsilon":
        raise InputError(
            f"predicts {config['prediction_type']}, so it is not SD 2.1-base but the 768 model; "
            "give the 512 base model",
            field,
            folder,
        )
    if config.get("beta_schedule", "scaled_linear") != "scaled_linear":
        raise InputError(f"expected beta_schedule scaled_linear, but got {config['beta_schedule']}", field, folder)
    names = {"beta_start": "start", "beta_end": "end", "num_train_timesteps": "steps"}
    return alphas_cumprod(**{ours: config[theirs] for theirs, ours in names.items() if theirs in config}).float()


def load_stable_diffusion(path: Path, field: str = "init") -> StableDiffusion:
    """Load SD 2.1-base: a diffusers folder with `unet`, `vae` and `text_encoder`, or a single file as published.

    No network, no code from the folder or the file.

    Args:
        field: the setting that names the path, for messages.

    Raises:
        ValueError: a part is missing or cannot be read, or it is another model.
    """
    base = _from_file(path, field) if path.is_file() else _from_folder(path, field)
    for part in (base.unet, base.vae, base.text_encoder):
        part.requires_grad_(False).eval()
    return base


def _from_folder(folder: Path, field: str) -> StableDiffusion:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    for part in ("unet", "vae", "text_encoder"):
        if not (folder / part / "config.json").is_file():
            raise InputError(
                f"expected SD 2.1-base in diffusers form, but {part}/config.json is missing there", field, folder
            )
    alphas = _alphas_cumprod(folder, field)
    local: dict[str, Any] = {"local_files_only": True, "torch_dtype": torch.float32}
    try:
        unet = UNet2DConditionModel.from_pretrained(folder / "unet", **local)
        vae = AutoencoderKL.from_pretrained(folder / "vae", **local)
        text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", **local)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"cannot be loaded ({error})", field, folder) from error
    return StableDiffusion(unet, vae, text_encoder, alphas)


def _from_file(path: Path, field: str) -> StableDiffusion:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    content = read_single_file(path, field)
    unet, vae = UNet2DConditionModel(**content.unet_config), AutoencoderKL(**content.vae_config)
    text_encoder = CLIPTextModel(CLIPTextConfig(**content.text_config))
    prefix = "text_model." if any(name.startswith("text_model.") for name in text_encoder.state_dict()) else ""
    text = {f"{prefix}{name}": value for name, value in content.text.items()}
    for part, state in ((unet, content.unet), (vae, content.vae), (text_encoder, text)):
        try:
            wrong = part.load_state_dict({name: value.float() for name, value in state.items()}, strict=False)
        except RuntimeError as error:
            raise InputError(f"not built like SD 2.1-base ({error})", field, path) from error
        missing = [name for name in [*wrong.missing_keys, *wrong.unexpected_keys] if "position_ids" not in name]
        if missing:
            raise InputError(f"not built like SD 2.1-base ({', '.join(missing[:3])})", field, path)
    return StableDiffusion(unet, vae, text_encoder, _alphas_cumprod(None, field))


@contextmanager
def without_adapters(unet: nn.Module) -> Iterator[None]:
    """The frozen base inside the fine-tuned UNet: one copy of the weights serves both."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in unet.modules() if isinstance(module, BaseTunerLayer)]
    trainable = {id(p) for layer in layers for p in layer.parameters() if p.requires_grad}
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
            for p in layer.parameters():  # peft's switch also touches requires_grad
                p.requires_grad_(id(p) in trainable)


class QUSRStableDiffusion(nn.Module):
    """QUSR's one step (equations 1-7) with everything that is trained, so that one `prepare` covers it.

    Args:
        base: SD 2.1-base with a LoRA on its UNet; its other parts stay out of this module's state.
        uem: uncertainty estimation module.
        parameters: of the noise.
        noise_gradient: whether gradients reach the UEM through the injected noise.
    """

    def __init__(self, base: StableDiffusion, uem: UEM, parameters: NoiseParameters, noise_gradient: bool) -> None:
        super().__init__()
        self.unet, self.uem = base.unet, uem
        self._base = [base]  # in a list, so that nn.Module does not register the frozen parts
        self.noise_parameters = parameters
        self.noise_gradient = noise_gradient

    def forward(
        self, x_lq: Tensor, z_lq: Tensor, context: Tensor, noise: Tensor, posterior_noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Restore a batch.

        Args:
            x_lq: (B, 3, H, W) in [-1, 1].
            z_lq: (B, 4, h, w), its scaled latent.
            context: (B, 77, C), encoded quality prompts.
            noise, posterior_noise: (B, 4, h, w), standard normal: of equation 7, and of the map's latent.

        Returns:
            x_hq (B, 3, H, W) in [-1, 1], the restored latent z_hq (B, 4, h, w), the raw map U (B, 3, H, W).
        """
        base, parameters = self._base[0], self.noise_parameters
        # In half precision the gradient through the noise is lost: the slope of sqrt(|u|) is steep near 0, and the
        # error of u turns it around (tests/bench/precision.py measures it).
        with torch.autocast(x_lq.device.type, enabled=False):
            u = self.uem(x_lq.float())
            u_encoded = None
            if parameters.p > 0:
                with torch.set_grad_enabled(self.noise_gradient and torch.is_grad_enabled()):
                    u_encoded = sample_latent(*base.moments(u), posterior_noise, base.latent_scale)

        def denoise(z_g: Tensor) -> Tensor:
            timesteps = torch.full((len(z_g),), TIMESTEP, device=z_g.device)
            return self.unet(z_g, timesteps, encoder_hidden_states=context.to(z_g.dtype)).sample

        z_hq = guided_step(z_lq, u_encoded, noise, parameters, denoise)
        return base.decode(z_hq), z_hq, u.float()
