"""The format `qusr`: what is added to Stable Diffusion 2.1-base.

Tensors, with diffusers' layer names: `lora.<layer>.down|up`, `pixel_lora.*`, `alignment_lora.*` and `vae_lora.*`
likewise, `base.<weight>` (replaced weights), `uem.*`, `modulation.*`. Metadata: `format`, `format_version`, `method`,
`base_model`, `rank`, `alpha`, `variant`, `k`, `m`, `p`, `delta`, `hidden_channels`, `timestep`, `training`,
and `content_sha256` of all that.

The layouts of the authors' own files are read by `reference.py`.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..model.lora import DEFAULT_ALPHA, LoraLayer
from ..model.modulation import FeatureModulation, build_modulation
from ..model.noise import NoiseParameters
from ..model.uncertainty import UEM
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

QUSR_FORMAT = "qusr"


BASE_MODEL = "stable-diffusion-2-1-base"


Method = Literal["qusr", "pisa-sr", "osediff", "codsr"]


METHODS: tuple[Method, ...] = get_args(Method)


@dataclass
class QUSRCheckpoint:
    """What QUSR and its relatives add to Stable Diffusion 2.1-base. Layer names are diffusers'."""

    lora: dict[str, LoraLayer]
    """UNet layers (PiSA-SR: the semantic LoRA)."""
    noise: NoiseParameters
    """How the uncertainty map becomes noise; p = 0 for methods without noise."""
    method: Method = "qusr"
    pixel_lora: dict[str, LoraLayer] = field(default_factory=dict)
    """UNet layers of PiSA-SR's pixel-level LoRA."""
    alignment_lora: dict[str, LoraLayer] = field(default_factory=dict)
    """UNet layers of CODSR's text-alignment LoRA, added to `lora`."""
    vae_lora: dict[str, LoraLayer] = field(default_factory=dict)
    """VAE encoder layers (OSEDiff, CODSR)."""
    base_weights: dict[str, Tensor] = field(default_factory=dict)
    """UNet weights that replace the base's own (OSEDiff's conv_in)."""
    uem: dict[str, Tensor] = field(default_factory=dict)
    """State of `UEM`, empty for methods without one."""
    modulation: dict[str, Tensor] = field(default_factory=dict)
    """State of `FeatureModulation` (CODSR)."""
    timestep: int = 1
    """What the UNet is told."""
    base_model: str = BASE_MODEL
    training: dict[str, Any] = field(default_factory=dict)
    """Free-form summary of how it was made."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, but got {self.method!r}")
        if not self.lora:
            raise ValueError("there is no LoRA in it")
        if not 0 <= self.timestep <= 999:
            raise ValueError(f"timestep must be in [0, 999], but got {self.timestep}")
        for lora in (self.lora, self.pixel_lora, self.alignment_lora, self.vae_lora):
            check_lora("LoRA", lora)
        if self.uem:
            self._check_uem()
        elif self.noise.p and self.noise.variant != "sobel":
            raise ValueError(
                "it uses uncertainty-guided noise but has no UEM weights; the reference code would silently take "
                "random ones"
            )
        if self.modulation:
            self._check_modulation()
            build_modulation(self.modulation)
        elif self.method == "codsr":
            raise ValueError("there is no feature modulation in it (state_dict_sft)")

    def build_uem(self) -> UEM:
        """The module with these weights, in evaluation mode. Raises ValueError when they do not fit."""
        if not self.uem:
            raise ValueError("there is no UEM in it")
        self._check_uem()
        uem = UEM(self.hidden_channels)
        uem.load_state_dict(self.uem)
        return uem.eval().requires_grad_(False)

    def _check_uem(self) -> None:
        try:
            check_fit("UEM", self.uem, lambda: UEM(self.hidden_channels))
        except ValueError as error:
            raise ValueError(f"UEM weights do not fit ({error})") from error

    def _check_modulation(self) -> None:
        """Before it is built: its width is what the file says."""
        bias = self.modulation.get("SFT_scale_conv0.bias")
        if bias is None:
            return  # named by `build_modulation`
        try:
            check_fit("SFT", self.modulation, lambda: FeatureModulation(bias.shape[0]))
        except ValueError as error:
            raise ValueError(f"feature modulation: its weights do not fit ({error})") from error

    @property
    def hidden_channels(self) -> int:
        """Of the UEM; 0 without one."""
        first = self.uem.get("encoder.0.weight")
        return 0 if first is None else first.shape[0]


def save_qusr(path: str | os.PathLike[str], checkpoint: QUSRCheckpoint, dtype: torch.dtype = torch.float32) -> None:
    """Write a checkpoint; the same content gives the same bytes.

    Args:
        path: an existing file is replaced only once the new one is whole.
        checkpoint: what to write.
        dtype: of the stored weights.
    """
    tensors = {
        **lora_tensors("lora", checkpoint.lora),
        **lora_tensors("pixel_lora", checkpoint.pixel_lora),
        **lora_tensors("alignment_lora", checkpoint.alignment_lora),
        **lora_tensors("vae_lora", checkpoint.vae_lora),
        **{f"base.{name}": value for name, value in checkpoint.base_weights.items()},
        **{f"uem.{name}": value for name, value in checkpoint.uem.items()},
        **{f"modulation.{name}": value for name, value in checkpoint.modulation.items()},
    }
    noise = checkpoint.noise
    metadata = {
        "format": QUSR_FORMAT,
        "format_version": FORMAT_VERSION,
        "method": checkpoint.method,
        "base_model": checkpoint.base_model,
        "rank": json.dumps(max(layer.down.shape[0] for layer in checkpoint.lora.values())),
        "alpha": json.dumps(
            shared_alpha(checkpoint.lora, checkpoint.pixel_lora, checkpoint.alignment_lora, checkpoint.vae_lora)
        ),
        "variant": noise.variant,
        **{name: json.dumps(getattr(noise, name)) for name in ("k", "m", "p", "delta")},
        "hidden_channels": json.dumps(checkpoint.hidden_channels),
        "timestep": json.dumps(checkpoint.timestep),
        "training": json.dumps(checkpoint.training, sort_keys=True),
    }
    write_file(path, {name: value.detach().cpu().to(dtype).contiguous() for name, value in tensors.items()}, metadata)


QUSR_REMEDY = (
    "Give a QUSR .safetensors file, or the authors' .pkl of QUSR, PiSA-SR, OSEDiff or CODSR; qusr-nano has its own "
    "loader."
)


def load_qusr(path: str | os.PathLike[str]) -> QUSRCheckpoint:
    """Read a `qusr` file; every tensor comes back in float32.

    Raises:
        CheckpointError: missing, truncated, of another format or of a newer version.
    """
    path = Path(path)
    tensors, metadata = read_file(path, QUSR_FORMAT, "a QUSR checkpoint", QUSR_REMEDY)
    try:
        alpha = float(json.loads(metadata.get("alpha", str(DEFAULT_ALPHA))))
        numbers = {name: float(json.loads(metadata[name])) for name in ("k", "m", "p", "delta")}
        return QUSRCheckpoint(
            method=metadata["method"],  # type: ignore[arg-type]  # checked by the class
            lora=lora_layers(part(tensors, "lora."), alpha),
            pixel_lora=lora_layers(part(tensors, "pixel_lora."), alpha),
            alignment_lora=lora_layers(part(tensors, "alignment_lora."), alpha),
            vae_lora=lora_layers(part(tensors, "vae_lora."), alpha),
            base_weights=part(tensors, "base."),
            uem=part(tensors, "uem."),
            modulation=part(tensors, "modulation."),
            noise=NoiseParameters(variant=metadata["variant"], **numbers),  # type: ignore[arg-type]
            timestep=int(json.loads(metadata["timestep"])),
            base_model=metadata["base_model"],
            training=json.loads(metadata["training"]),
        )
    except WRONG_CONTENT as error:
        raise unusable(path, "inconsistent content", error, QUSR_REMEDY) from error
