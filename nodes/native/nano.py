"""qusr-nano as native ComfyUI objects: MODEL, CLIP, VAE and UEM."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, TypeAlias

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import torch

from ...qusr_train.checkpoints.nano_file import BUNDLED, NanoCheckpoint, load_nano
from ...qusr_train.model.nano import NanoConfig, NanoUNet, PixelUnshuffleVAE
from ...qusr_train.model.text_encoder import text_encoder_config
from .comfy_types import CLIP, MODEL, VAE, ModelOptions, Patches
from .dial import Turned, attach_dial
from .host import managed
from .lora import lora_patches
from .sampling import make_one_step
from .sockets import LoadedModels, LoadedUEM

Device: TypeAlias = torch.device | str


class NanoLatents(comfy.latent_formats.LatentFormat):
    """Unshuffled pixels in [-1, 1], no scaling."""

    def __init__(self, channels: int = 48) -> None:
        self.latent_channels = channels


def _unet_model(
    config: NanoConfig, dtype: torch.dtype, device: torch.device | None, operations: ModuleType
) -> NanoUNet:
    return NanoUNet(config, operations=operations, device=device, dtype=dtype)


class NanoModelConfig(comfy.supported_models_base.BASE):
    """What ComfyUI's BaseModel asks of a model family."""

    unet_extra_config: ClassVar[dict[str, Any]] = {}
    latent_format = NanoLatents
    # About 2 KB per latent pixel in float32, measured on the bundled model.
    memory_usage_factor = 0.05

    def __init__(self, config: NanoConfig) -> None:
        super().__init__({"config": config, "dtype": torch.float32})
        self.latent_format = NanoLatents(config.latent_channels)


def _model(checkpoint: NanoCheckpoint) -> MODEL:
    model = comfy.model_base.BaseModel(NanoModelConfig(checkpoint.config), unet_model=_unet_model)
    model.diffusion_model.load_state_dict(checkpoint.unet)
    # Of the classic kind on every host: hooks and torch.compile ask a dynamic one for a loader of ComfyUI's own.
    return comfy.model_patcher.ModelPatcher(
        model,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


def _clip(checkpoint: NanoCheckpoint) -> CLIP:
    width = checkpoint.config.text_dim

    class NanoTokenizer(comfy.sd1_clip.SD1Tokenizer):
        def __init__(self, embedding_directory: str | None = None, tokenizer_data: ModelOptions | None = None) -> None:
            def tokenizer(**keywords: Any) -> comfy.sd1_clip.SDTokenizer:
                return comfy.sd1_clip.SDTokenizer(
                    pad_with_end=False, embedding_size=width, embedding_key="qusr_nano", **keywords
                )

            super().__init__(embedding_directory, tokenizer_data or {}, clip_name="qusr_nano", tokenizer=tokenizer)

    class NanoText(comfy.sd1_clip.SDClipModel):
        def __init__(
            self, device: Device = "cpu", dtype: torch.dtype | None = None, model_options: ModelOptions | None = None
        ) -> None:
            super().__init__(
                device=device,
                dtype=dtype,
                textmodel_json_config=text_encoder_config(checkpoint.config),
                special_tokens={"start": 49406, "end": 49407, "pad": 0},
                model_options={**(model_options or {}), "model_name": "qusr_nano"},
            )

    class NanoTextModel(comfy.sd1_clip.SD1ClipModel):
        def __init__(
            self, device: Device = "cpu", dtype: torch.dtype | None = None, model_options: ModelOptions | None = None
        ) -> None:
            super().__init__(
                device=device,
                dtype=dtype,
                model_options=model_options or {},
                clip_name="qusr_nano",
                clip_model=NanoText,
            )

    target = comfy.supported_models_base.ClipTarget(NanoTokenizer, NanoTextModel)
    clip = comfy.sd.CLIP(target, model_options={"dtype": torch.float32})
    state = {f"text_model.{key}": value for key, value in checkpoint.text_encoder.items()}
    state["text_projection.weight"] = torch.eye(width)  # the pooled output is not used, but must be finite
    clip.cond_stage_model.clip_qusr_nano.transformer.load_state_dict(state)
    return clip


class _NanoFirstStage(PixelUnshuffleVAE):
    """The pixel unshuffle with a parameter, since ComfyUI's patcher reads a model's device from one."""

    def __init__(self, shuffle: int) -> None:
        super().__init__(shuffle)
        self.anchor = torch.nn.Parameter(torch.zeros(1), requires_grad=False)


def _vae(config: NanoConfig) -> VAE:
    # ComfyUI's pixel-space VAE is the nearest relative; nano's differs in the block it folds.
    vae = comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)}, dtype=torch.float32)
    vae.first_stage_model = _NanoFirstStage(config.shuffle).eval()
    vae.patcher = type(vae.patcher)(
        vae.first_stage_model, load_device=vae.device, offload_device=vae.patcher.offload_device
    )
    vae.downscale_ratio = vae.upscale_ratio = config.shuffle
    vae.latent_channels = config.latent_channels
    # Input and output in float32: 3 channels in, 3 channels out, per pixel.
    vae.memory_used_encode = lambda shape, dtype: 24 * shape[2] * shape[3]
    vae.memory_used_decode = lambda shape, dtype: 24 * shape[2] * shape[3] * config.shuffle**2
    return vae


def _uem(checkpoint: NanoCheckpoint) -> LoadedUEM:
    uem = checkpoint.config.build_uem()
    uem.load_state_dict(checkpoint.uem)
    meaning = checkpoint.map_calibration
    return LoadedUEM(managed(uem.eval().requires_grad_(False)), checkpoint.noise, checkpoint.latent_scale, meaning)


def _less_lora(model: MODEL, patches: Patches, strength: float, detail: float) -> Turned:
    """Take a part of the LoRA away again: what else was put onto the MODEL since stays."""
    turned = model.clone()
    turned.add_patches(patches, strength * (detail - 1))
    return Turned(turned, noise=detail)


@lru_cache(maxsize=1)
def _base(path: str, changed: int) -> tuple[NanoCheckpoint, MODEL, CLIP, VAE, LoadedUEM]:
    """`changed` is the file's time: one that was trained further is read again."""
    checkpoint = load_nano(path)
    return checkpoint, _model(checkpoint), _clip(checkpoint), _vae(checkpoint.config), _uem(checkpoint)


def load_nano_models(lora_strength: float = 1.0, path: str = str(BUNDLED)) -> LoadedModels:
    """Load a nano file as native objects; it is read again only when it changed or another one was in between.

    Raises:
        CheckpointError: missing or damaged file.
    """
    changed = Path(path).stat().st_mtime_ns if Path(path).is_file() else 0
    checkpoint, model, clip, vae, uem = _base(path, changed)
    patched = make_one_step(model.clone(), checkpoint.noise.variant, grain=checkpoint.noise.grain)
    if checkpoint.lora and lora_strength:
        keys = {name: f"diffusion_model.{name}.weight" for name in checkpoint.lora}
        patches = lora_patches(checkpoint.lora, keys)
        patched.add_patches(patches, lora_strength)
        attach_dial(patched, lambda model, detail: _less_lora(model, patches, lora_strength, detail))
    return LoadedModels(patched, clip.clone(), vae, uem)
