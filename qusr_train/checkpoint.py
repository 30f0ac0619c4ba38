"""Checkpoint files: one `.safetensors` with everything about a model in its metadata (all JSON).

`qusr-nano`: a whole model. Tensors: `unet.*`, `text_encoder.*` (the token embedding as the rows
that were trained: `text_encoder.token_ids`, `text_encoder.token_rows`), `uem.*`, and
`lora.<layer>.down|up`. Metadata: `format`, `format_version`, `config` (NanoConfig), `noise`
(NoiseParameters), `latent_scale`, `lora_alpha`, `training` (free-form summary).

`qusr`: what is added to Stable Diffusion 2.1-base. Tensors, with diffusers' layer names:
`lora.<layer>.down|up`, `pixel_lora.*` and `vae_lora.*` likewise, `base.<weight>` (replaced weights),
`uem.*`. Metadata: `format`, `format_version`, `method`, `base_model`, `rank`, `alpha`, `variant`,
`k`, `m`, `p`, `delta`, `hidden_channels`, `timestep`, `training`.

The layouts of the authors' own files are read by `reference_checkpoint`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from .files import write_whole
from .lora import DEFAULT_ALPHA, LoraLayer
from .nano import NanoConfig
from .noise import NoiseParameters
from .prompt import VOCABULARY_SIZE
from .uncertainty import UEM

FORMAT = "qusr-nano"
QUSR_FORMAT = "qusr"
FORMAT_VERSION = "1"
BASE_MODEL = "stable-diffusion-2-1-base"

Method = Literal["qusr", "pisa-sr", "osediff"]
METHODS: tuple[Method, ...] = get_args(Method)
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
    vae_lora: dict[str, LoraLayer] = field(default_factory=dict)
    """VAE encoder layers (OSEDiff)."""
    base_weights: dict[str, Tensor] = field(default_factory=dict)
    """UNet weights that replace the base's own (OSEDiff's conv_in)."""
    uem: dict[str, Tensor] = field(default_factory=dict)
    """State of `UEM`, empty for methods without one."""
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
        for name, layer in {**self.lora, **self.pixel_lora, **self.vae_lora}.items():
            if layer.up.shape[1] != layer.down.shape[0]:
                raise ValueError(
                    f"LoRA layer {name}: up {tuple(layer.up.shape)} and down {tuple(layer.down.shape)} differ in rank"
                )
        if self.uem:
            self.build_uem()
        elif self.noise.p:
            raise ValueError(
                "it uses uncertainty-guided noise but has no UEM weights; the reference code would silently take "
                "random ones"
            )

    def build_uem(self) -> UEM:
        """The module with these weights, in evaluation mode. Raises ValueError when they do not fit."""
        if not self.uem:
            raise ValueError("there is no UEM in it")
        uem = UEM(self.hidden_channels)
        try:
            uem.load_state_dict(self.uem)
        except RuntimeError as error:
            raise ValueError(f"UEM weights do not fit ({error})") from error
        return uem.eval().requires_grad_(False)

    @property
    def hidden_channels(self) -> int:
        """Of the UEM; 0 without one."""
        first = self.uem.get("encoder.0.weight")
        return 0 if first is None else first.shape[0]


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
    tensors: dict[str, Tensor] = {f"unet.{k}": v for k, v in checkpoint.unet.items()}
    tensors |= {f"uem.{k}": v for k, v in checkpoint.uem.items()}
    for key, value in checkpoint.text_encoder.items():
        if key == _EMBEDDING:
            trained = value.abs().sum(1).nonzero()[:, 0]
            tensors["text_encoder.token_ids"] = trained.to(torch.int32)
            tensors["text_encoder.token_rows"] = value[trained]
        else:
            tensors[f"text_encoder.{key}"] = value
    alpha = _alpha(checkpoint.lora)
    tensors |= _lora_tensors("lora", checkpoint.lora)
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
    _write(path, half, metadata)


def scale_residual(checkpoint: NanoCheckpoint, factor: float) -> NanoCheckpoint:
    """The same nano model with a weaker (or stronger) residual: its last layer times `factor`.

    A model trained on synthetic pairs is too sure of itself on real photos; a share of its residual
    is nearer to the truth than all of it.

    Raises:
        ValueError: factor not above 0.
    """
    if not 0 < factor < math.inf:
        raise ValueError(f"factor must be finite and above 0, but got {factor}")
    last = "conv_out"
    unet = {k: v * factor if k.startswith(f"{last}.") else v for k, v in checkpoint.unet.items()}
    lora = dict(checkpoint.lora)
    if last in lora:
        lora[last] = LoraLayer(lora[last].down, lora[last].up * factor, lora[last].alpha)
    scale = checkpoint.training.get("residual_scale", 1.0) * factor
    return dataclasses.replace(
        checkpoint, unet=unet, lora=lora, training={**checkpoint.training, "residual_scale": scale}
    )


def save_qusr(path: str | os.PathLike[str], checkpoint: QUSRCheckpoint, dtype: torch.dtype = torch.float32) -> None:
    """Write a checkpoint; the same content gives the same bytes.

    Args:
        path: an existing file is replaced only once the new one is whole.
        checkpoint: what to write.
        dtype: of the stored weights.
    """
    tensors = {
        **_lora_tensors("lora", checkpoint.lora),
        **_lora_tensors("pixel_lora", checkpoint.pixel_lora),
        **_lora_tensors("vae_lora", checkpoint.vae_lora),
        **{f"base.{name}": value for name, value in checkpoint.base_weights.items()},
        **{f"uem.{name}": value for name, value in checkpoint.uem.items()},
    }
    noise = checkpoint.noise
    metadata = {
        "format": QUSR_FORMAT,
        "format_version": FORMAT_VERSION,
        "method": checkpoint.method,
        "base_model": checkpoint.base_model,
        "rank": json.dumps(max(layer.down.shape[0] for layer in checkpoint.lora.values())),
        "alpha": json.dumps(_alpha({**checkpoint.lora, **checkpoint.pixel_lora, **checkpoint.vae_lora})),
        "variant": noise.variant,
        **{name: json.dumps(getattr(noise, name)) for name in ("k", "m", "p", "delta")},
        "hidden_channels": json.dumps(checkpoint.hidden_channels),
        "timestep": json.dumps(checkpoint.timestep),
        "training": json.dumps(checkpoint.training, sort_keys=True),
    }
    _write(path, {name: value.detach().cpu().to(dtype).contiguous() for name, value in tensors.items()}, metadata)


def _lora_tensors(prefix: str, lora: dict[str, LoraLayer]) -> dict[str, Tensor]:
    pairs = [((f"{prefix}.{n}.down", layer.down), (f"{prefix}.{n}.up", layer.up)) for n, layer in lora.items()]
    return dict(item for pair in pairs for item in pair)


def _alpha(lora: dict[str, LoraLayer]) -> float:
    alphas = {layer.alpha for layer in lora.values()}
    if len(alphas) > 1:
        raise ValueError("lora: all layers must have the same alpha to be stored in one file")
    return alphas.pop() if alphas else 0.0


def _write(path: str | os.PathLike[str], tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    from safetensors.torch import save

    data = save(dict(sorted(tensors.items())), metadata=metadata)
    # safetensors writes the metadata in the order of a hash map, which differs from run to run.
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    ordered = {"__metadata__": dict(sorted(header.pop("__metadata__").items())), **header}
    text = json.dumps(ordered, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with write_whole(Path(path)) as temporary:
        temporary.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])


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
    tensors, metadata = _read(path, FORMAT, "a qusr-nano model", remedy)
    try:
        return _assemble(tensors, metadata)
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"weight file {path}: inconsistent content ({error}). {remedy}") from error


def _read(path: Path, expected: str, what: str, remedy: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors (in float32) and metadata of a file of ours. Raises CheckpointError."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise CheckpointError(f"weight file {path}: not found. {remedy}")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != expected:
                kind = metadata.get("format") or "no QUSR metadata"
                raise CheckpointError(f"weight file {path}: not {what} (found {kind}). {remedy}")
            if metadata.get("format_version") != FORMAT_VERSION:
                raise CheckpointError(
                    f"weight file {path}: format version {metadata.get('format_version')} is not supported "
                    f"(this version reads {FORMAT_VERSION}). Update the extension."
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"weight file {path}: damaged or not a safetensors file ({error}). {remedy}") from error
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}, metadata


QUSR_REMEDY = (
    "Give a QUSR .safetensors file, or the authors' .pkl of QUSR, PiSA-SR or OSEDiff; qusr-nano has its own loader."
)


def load_qusr(path: str | os.PathLike[str]) -> QUSRCheckpoint:
    """Read a `qusr` file; every tensor comes back in float32.

    Raises:
        CheckpointError: missing, truncated, of another format or of a newer version.
    """
    path = Path(path)
    tensors, metadata = _read(path, QUSR_FORMAT, "a QUSR checkpoint", QUSR_REMEDY)
    try:
        alpha = float(json.loads(metadata.get("alpha", str(DEFAULT_ALPHA))))
        numbers = {name: float(json.loads(metadata[name])) for name in ("k", "m", "p", "delta")}
        return QUSRCheckpoint(
            method=metadata["method"],  # type: ignore[arg-type]  # checked by the class
            lora=_lora_layers(_part(tensors, "lora."), alpha),
            pixel_lora=_lora_layers(_part(tensors, "pixel_lora."), alpha),
            vae_lora=_lora_layers(_part(tensors, "vae_lora."), alpha),
            base_weights=_part(tensors, "base."),
            uem=_part(tensors, "uem."),
            noise=NoiseParameters(variant=metadata["variant"], **numbers),  # type: ignore[arg-type]
            timestep=int(json.loads(metadata["timestep"])),
            base_model=metadata["base_model"],
            training=json.loads(metadata["training"]),
        )
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"weight file {path}: inconsistent content ({error}). {QUSR_REMEDY}") from error


def stored_format(path: str | os.PathLike[str]) -> str:
    """`qusr-nano` or `qusr` for a file of ours, empty for anything else; reads the header only."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            return (file.metadata() or {}).get("format", "")
    except (SafetensorError, OSError):
        return ""


def load_checkpoint(path: str | os.PathLike[str]) -> QUSRCheckpoint:
    """Read a file of the family: our `.safetensors` or the authors' `.pkl`, told apart by content and name.

    Raises:
        CheckpointError: none of them, damaged, or it would run code.
    """
    from .reference_checkpoint import load_reference

    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"weight file {path}: not found. {QUSR_REMEDY}")
    with path.open("rb") as file:
        start = file.read(9)
    ours = start[8:9] == b"{" or path.suffix == ".safetensors"
    return load_qusr(path) if ours else load_reference(path)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _lora_layers(tensors: dict[str, Tensor], alpha: float) -> dict[str, LoraLayer]:
    names = sorted({name.rsplit(".", 1)[0] for name in tensors})
    return {name: LoraLayer(tensors[f"{name}.down"], tensors[f"{name}.up"], alpha) for name in names}


def _assemble(tensors: dict[str, Tensor], metadata: dict[str, str]) -> NanoCheckpoint:
    config = NanoConfig(**json.loads(metadata["config"]))
    latent_scale = float(json.loads(metadata["latent_scale"]))
    if not (math.isfinite(latent_scale) and latent_scale > 0):
        raise ValueError(f"latent_scale must be finite and above 0, but is {latent_scale}")
    text = _part(tensors, "text_encoder.")
    rows, ids = text.pop("token_rows"), text.pop("token_ids")
    embedding = torch.zeros(VOCABULARY_SIZE, config.text_dim)
    embedding[ids.long()] = rows
    text[_EMBEDDING] = embedding
    alpha = float(json.loads(metadata["lora_alpha"]))
    return NanoCheckpoint(
        config=config,
        noise=NoiseParameters(**json.loads(metadata["noise"])),
        unet=_part(tensors, "unet."),
        text_encoder=text,
        uem=_part(tensors, "uem."),
        lora=_lora_layers(_part(tensors, "lora."), alpha),
        latent_scale=latent_scale,
        training=json.loads(metadata["training"]),
    )
