"""Checkpoint files: one `.safetensors` with everything about a model in its metadata.

Only the nano format so far. Tensors: `unet.*`, `text_encoder.*` (the token embedding as the rows
that were trained: `text_encoder.token_ids`, `text_encoder.token_rows`), `uem.*`, and
`lora.<layer>.down|up`. Metadata: `format`, `format_version`, `config` (NanoConfig), `noise`
(NoiseParameters), `latent_scale`, `lora_alpha`, `training` (free-form summary), all JSON.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .files import write_whole
from .lora import LoraLayer
from .nano import NanoConfig
from .noise import NoiseParameters
from .prompt import VOCABULARY_SIZE

FORMAT = "qusr-nano"
FORMAT_VERSION = "1"
BUNDLED = Path(__file__).parent / "weights" / "qusr-nano.safetensors"

_TEXT_PREFIX = "text_model."
_EMBEDDING = "embeddings.token_embedding.weight"


class CheckpointError(ValueError):
    """A weight file that cannot be used; the message names the file and the remedy."""


@dataclass
class NanoCheckpoint:
    """A whole qusr-nano model in memory."""

    config: NanoConfig
    noise: NoiseParameters
    unet: dict[str, Tensor]
    """State of `NanoUNet`, without LoRA."""
    text_encoder: dict[str, Tensor]
    """State of the CLIP text model, without the `text_model.` prefix; full token embedding."""
    uem: dict[str, Tensor]
    """State of `UEM`."""
    lora: dict[str, LoraLayer] = field(default_factory=dict)
    latent_scale: float = 1.0
    """Factor between the VAE's output and the denoiser's latent space (1 for nano)."""
    training: dict[str, Any] = field(default_factory=dict)


def text_encoder_config(config: NanoConfig) -> dict[str, Any]:
    """The CLIP text model's configuration, in Hugging Face's terms (ComfyUI reads the same keys)."""
    return {
        "vocab_size": VOCABULARY_SIZE,
        "hidden_size": config.text_dim,
        "intermediate_size": 4 * config.text_dim,
        "num_hidden_layers": config.text_layers,
        "num_attention_heads": max(1, config.text_dim // 32),
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": 0,
        "projection_dim": config.text_dim,
    }


def strip_text_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """transformers 4 prefixes the text model's keys with `text_model.`, transformers 5 does not."""
    return {key.removeprefix(_TEXT_PREFIX): value for key, value in state.items() if "position_ids" not in key}


def save_nano(path: str | os.PathLike[str], checkpoint: NanoCheckpoint) -> None:
    """Write a checkpoint in half precision; an existing file is replaced only once the new one is whole."""
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {f"unet.{k}": v for k, v in checkpoint.unet.items()}
    tensors |= {f"uem.{k}": v for k, v in checkpoint.uem.items()}
    for key, value in checkpoint.text_encoder.items():
        if key == _EMBEDDING:
            trained = value.abs().sum(1).nonzero()[:, 0]
            tensors["text_encoder.token_ids"] = trained.to(torch.int32)
            tensors["text_encoder.token_rows"] = value[trained]
        else:
            tensors[f"text_encoder.{key}"] = value
    alpha = 0.0
    if len({layer.alpha for layer in checkpoint.lora.values()}) > 1:
        raise ValueError("lora: all layers must have the same alpha to be stored in one file")
    for name, layer in checkpoint.lora.items():
        tensors[f"lora.{name}.down"], tensors[f"lora.{name}.up"] = layer.down, layer.up
        alpha = layer.alpha
    half = {
        k: (v.half() if v.is_floating_point() else v).detach().cpu().contiguous() for k, v in sorted(tensors.items())
    }
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "config": json.dumps(dataclasses.asdict(checkpoint.config), sort_keys=True),
        "noise": json.dumps(dataclasses.asdict(checkpoint.noise), sort_keys=True),
        "latent_scale": json.dumps(checkpoint.latent_scale),
        "lora_alpha": json.dumps(alpha),
        "training": json.dumps(checkpoint.training, sort_keys=True),
    }
    with write_whole(Path(path)) as temporary:
        temporary.write_bytes(save(half, metadata=metadata))


def load_nano(path: str | os.PathLike[str] = BUNDLED) -> NanoCheckpoint:
    """Read a qusr-nano file; every tensor comes back in float32.

    Raises:
        CheckpointError: the file is missing, truncated, of another format or of a newer version.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    remedy = (
        "Reinstall the extension to restore the bundled model."
        if path == BUNDLED
        else "Give a .safetensors file written by `python -m qusr_train train`, or `nano` for the bundled model."
    )
    if not path.is_file():
        raise CheckpointError(f"weight file {path}: not found. {remedy}")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            names = list(file.keys())
            if metadata.get("format") != FORMAT:
                kind = metadata.get("format") or "no QUSR metadata"
                raise CheckpointError(f"weight file {path}: not a qusr-nano model (found {kind}). {remedy}")
            if metadata.get("format_version") != FORMAT_VERSION:
                raise CheckpointError(
                    f"weight file {path}: format version {metadata.get('format_version')} is not supported "
                    f"(this version reads {FORMAT_VERSION}). Update the extension."
                )
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"weight file {path}: damaged or not a safetensors file ({error}). {remedy}") from error
    try:
        return _assemble(tensors, metadata)
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"weight file {path}: inconsistent content ({error}). {remedy}") from error


def _assemble(tensors: dict[str, Tensor], metadata: dict[str, str]) -> NanoCheckpoint:
    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    tensors = {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
    config = NanoConfig(**json.loads(metadata["config"]))
    latent_scale = float(json.loads(metadata["latent_scale"]))
    if not (math.isfinite(latent_scale) and latent_scale > 0):
        raise ValueError(f"latent_scale must be finite and above 0, but is {latent_scale}")
    text = part("text_encoder.")
    rows, ids = text.pop("token_rows"), text.pop("token_ids")
    embedding = torch.zeros(VOCABULARY_SIZE, config.text_dim)
    embedding[ids.long()] = rows
    text[_EMBEDDING] = embedding
    alpha = float(json.loads(metadata["lora_alpha"]))
    lora_tensors = part("lora.")
    lora = {
        name.removesuffix(".down"): LoraLayer(value, lora_tensors[name.removesuffix(".down") + ".up"], alpha)
        for name, value in lora_tensors.items()
        if name.endswith(".down")
    }
    return NanoCheckpoint(
        config=config,
        noise=NoiseParameters(**json.loads(metadata["noise"])),
        unet=part("unet."),
        text_encoder=text,
        uem=part("uem."),
        lora=lora,
        latent_scale=latent_scale,
        training=json.loads(metadata["training"]),
    )
