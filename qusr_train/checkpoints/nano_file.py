"""The format `qusr-nano`: a whole model.

Tensors: `unet.*`, `text_encoder.*` (the token embedding as the rows that were trained: `text_encoder.token_ids`,
`text_encoder.token_rows`), `uem.*`, and `lora.<layer>.down|up`. Metadata: `format`, `format_version`, `config`
(NanoConfig), `noise` (NoiseParameters), `latent_scale`, `lora_alpha`, `training` (free-form summary), once the map was
calibrated `map` (MapCalibration), and `content_sha256` of all that.
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

from ..errors import InputError
from ..model.lora import LoraLayer
from ..model.map_calibration import AS_TRAINED, MapCalibration
from ..model.nano import NanoConfig, NanoUNet
from ..model.noise import NoiseParameters
from ..model.text_encoder import TextEncoder
from ..model.tokenizer import VOCABULARY_SIZE
from .check import check_fit, check_lora
from .format import (
    FORMAT_VERSION,
    WRONG_CONTENT,
    lora_layers,
    lora_tensors,
    part,
    read_file,
    shared_alpha,
    unusable,
    write_file,
)

FORMAT = "qusr-nano"

BUNDLED = Path(__file__).parent / "weights" / "qusr-nano.safetensors"

_EMBEDDING = "embeddings.token_embedding.weight"


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
    calibration: MapCalibration | None = None
    """Measured meaning of the map; None: not measured."""

    @property
    def map_calibration(self) -> MapCalibration | None:
        """Meaning of the map: measured, or what the UEM was trained for; None for a map without a unit (`paper`)."""
        return self.calibration or (AS_TRAINED if self.config.uem == "error" else None)


def save_nano(path: str | os.PathLike[str], checkpoint: NanoCheckpoint) -> None:
    """Write a checkpoint in half precision; an existing file is replaced only once the new one is whole."""
    tensors: dict[str, Tensor] = {f"unet.{k}": v for k, v in checkpoint.unet.items()}
    tensors |= {f"uem.{k}": v for k, v in checkpoint.uem.items()}
    for key, value in checkpoint.text_encoder.items():
        if key == _EMBEDDING:
            trained = value.abs().sum(1).nonzero()[:, 0]
            tensors["text_encoder.token_ids"] = trained.to(torch.int32)
            tensors["text_encoder.token_rows"] = value[trained]
        else:
            tensors[f"text_encoder.{key}"] = value
    alpha = shared_alpha(checkpoint.lora)
    tensors |= lora_tensors("lora", checkpoint.lora)
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
    if checkpoint.calibration is not None:
        metadata["map"] = checkpoint.calibration.to_json()
    write_file(path, half, metadata)


def scale_residual(checkpoint: NanoCheckpoint, factor: float) -> NanoCheckpoint:
    """The same nano model with a weaker (or stronger) residual: its last layer times `factor`.

    A model trained on synthetic pairs is too sure of itself on real photos; a share of its residual
    is nearer to the truth than all of it. Its errors are others then, so a calibration of the map does not stay.

    Raises:
        ValueError: factor not above 0.
    """
    if not 0 < factor < math.inf:
        raise InputError(f"must be finite and above 0, but got {factor}", field="factor")
    last = "conv_out"
    unet = {k: v * factor if k.startswith(f"{last}.") else v for k, v in checkpoint.unet.items()}
    lora = dict(checkpoint.lora)
    if last in lora:
        lora[last] = LoraLayer(lora[last].down, lora[last].up * factor, lora[last].alpha)
    scale = checkpoint.training.get("residual_scale", 1.0) * factor
    return dataclasses.replace(
        checkpoint,
        unet=unet,
        lora=lora,
        training={**checkpoint.training, "residual_scale": scale},
        calibration=None,
    )


def load_nano(path: str | os.PathLike[str] = BUNDLED) -> NanoCheckpoint:
    """Read a qusr-nano file; every tensor comes back in float32.

    Raises:
        CheckpointError: the file is missing, truncated, of another format or of a newer version.
    """
    path = Path(path)
    remedy = (
        "Reinstall the extension to restore the bundled model."
        if path == BUNDLED
        else "Give a .safetensors file written by `python -m qusr_train train`, or `nano` for the bundled model."
    )
    tensors, metadata = read_file(path, FORMAT, "a qusr-nano model", remedy)
    try:
        return _assemble(tensors, metadata)
    except WRONG_CONTENT as error:
        raise unusable(path, "inconsistent content", error, remedy) from error


def _embedding(ids: Tensor, rows: Tensor, width: int) -> Tensor:
    """The whole token embedding, from the rows that were trained."""
    if ids.is_floating_point() or ids.ndim != 1 or rows.shape != (len(ids), width):
        raise ValueError(
            f"text encoder: expected whole token_ids and a row of {width} for each, but got {tuple(ids.shape)} and "
            f"{tuple(rows.shape)}"
        )
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < VOCABULARY_SIZE:
        raise ValueError(f"text encoder: token_ids must be in [0, {VOCABULARY_SIZE})")
    embedding = torch.zeros(VOCABULARY_SIZE, width)
    embedding[ids.long()] = rows
    return embedding


def _assemble(tensors: dict[str, Tensor], metadata: dict[str, str]) -> NanoCheckpoint:
    config = NanoConfig(**json.loads(metadata["config"]))
    latent_scale = float(json.loads(metadata["latent_scale"]))
    if not (math.isfinite(latent_scale) and latent_scale > 0):
        raise ValueError(f"latent_scale must be finite and above 0, but is {latent_scale}")
    unet, uem, text = (part(tensors, f"{name}.") for name in ("unet", "uem", "text_encoder"))
    rows, ids = text.pop("token_rows"), text.pop("token_ids")
    # Before anything is built: the description may claim what the tensors are not.
    layers = check_fit("unet", unet, lambda: NanoUNet(config))
    check_fit("uem", uem, config.build_uem)
    unembedded = torch.empty(VOCABULARY_SIZE, config.text_dim, device="meta")
    check_fit("text encoder", {**text, _EMBEDDING: unembedded}, lambda: TextEncoder(config))
    text[_EMBEDDING] = _embedding(ids, rows, config.text_dim)
    alpha = float(json.loads(metadata["lora_alpha"]))
    lora = lora_layers(part(tensors, "lora."), alpha)
    check_lora("LoRA", lora, layers)
    return NanoCheckpoint(
        config=config,
        noise=NoiseParameters(**json.loads(metadata["noise"])),
        unet=unet,
        text_encoder=text,
        uem=uem,
        lora=lora,
        latent_scale=latent_scale,
        training=json.loads(metadata["training"]),
        calibration=MapCalibration.from_json(metadata["map"]) if "map" in metadata else None,
    )
