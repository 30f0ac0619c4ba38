"""Reading the `.pkl` files of the authors' own code: QUSR, PiSA-SR, OSEDiff and CODSR.

| file    | LoRA adapters of the UNet                         | beside them                                      |
|---------|---------------------------------------------------|--------------------------------------------------|
| QUSR    | default_{encoder,decoder,others}_sem              | the UEM                                          |
| PiSA-SR | the same, and default_{encoder,decoder,others}_pix | nothing                                          |
| OSEDiff | default_{encoder,decoder,others}                  | trained conv_in, LoRA of the VAE encoder, t = 999 |
| CODSR   | the same, and default_{...}_alignment             | LoRA of the VAE encoder, feature modulation, t = 100 |

The files do not say alpha: peft's default of 8 was in force when they were written.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

from torch import Tensor

from ..model.lora import DEFAULT_ALPHA, LoraLayer
from ..model.noise import NoiseParameters
from .check import as_weight
from .format import WRONG_CONTENT, refuse_no_file, unusable
from .pickled import NotPlainData, read_pickled
from .qusr_file import QUSR_REMEDY, QUSRCheckpoint

OSEDIFF_TIMESTEP = 999
CODSR_TIMESTEP = 100
_MARK = b"unet_lora_encoder_modules"
_PIXEL_MARK = b"unet_lora_encoder_modules_pix"
_LISTING_LIMIT = 2**20  # bytes; the authors' files list their contents in 0.1 million
_NO_NOISE = NoiseParameters(variant="reference", p=0.0)


def is_reference(path: Path) -> bool:
    """Whether a file lists what an authors' file lists; nothing in it is opened but the names."""
    return _MARK in _listing(path)


def has_pixel_lora(path: Path) -> bool:
    """Whether an authors' file lists the LoRA that only PiSA-SR has."""
    return _PIXEL_MARK in _listing(path)


def _listing(path: Path) -> bytes:
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(name) as listing:
                return listing.read(_LISTING_LIMIT)
    except (OSError, StopIteration, RuntimeError, ValueError, NotImplementedError, zipfile.BadZipFile, zlib.error):
        return b""


def load_reference(path: Path) -> QUSRCheckpoint:
    """Read an authors' file. Only tensors, numbers, texts and lists are accepted: no code is run.

    Raises:
        CheckpointError: damaged, not of the family, or it holds more than data.
    """
    refuse_no_file(path, QUSR_REMEDY)
    try:
        content = read_pickled(path)
    except NotPlainData as error:
        what = "refused, it is damaged or holds more than weights and could run code when opened"
        raise unusable(path, what, error, QUSR_REMEDY) from error
    except (ValueError, OSError) as error:
        raise unusable(path, "damaged or not a checkpoint", error, QUSR_REMEDY) from error
    try:
        return _read(content)
    except WRONG_CONTENT as error:
        raise unusable(path, "not usable", error, QUSR_REMEDY) from error


def _read(content: Any) -> QUSRCheckpoint:
    if not isinstance(content, dict):
        raise ValueError(f"expected a dictionary, but it holds a {type(content).__name__}")
    if "unet_lora_encoder_modules_pix" in content:
        return _pisa_sr(content)
    if "unet_lora_encoder_modules_sem" in content:
        return _qusr(content)
    if "unet_lora_encoder_modules" in content:
        return _osediff(content)
    if "state_dict_sft" in content:
        return _codsr(content)
    keys = ", ".join(str(key)[:60] for key in list(content)[:4]) or "nothing"
    raise ValueError(f"it is none of QUSR, PiSA-SR, OSEDiff and CODSR (it holds {keys})")


def _qusr(content: dict[str, Any]) -> QUSRCheckpoint:
    lora, _ = _layers(content["state_dict_unet"], "_sem", content["lora_rank_unet_sem"])
    uncertain = bool(content.get("enable_uncertainty", False))
    uem = dict(content.get("state_dict_uncertainty") or {}) if uncertain else {}
    # `uncertainty_params` are dead arguments of the reference: p = 0.5 and delta = 1e-8 are in its code.
    noise = NoiseParameters(variant="reference", p=0.5, delta=1e-8) if uncertain else _NO_NOISE
    return QUSRCheckpoint(lora=lora, noise=noise, uem={name: _tensor(value, name) for name, value in uem.items()})


def _pisa_sr(content: dict[str, Any]) -> QUSRCheckpoint:
    semantic, _ = _layers(content["state_dict_unet"], "_sem", content["lora_rank_unet_sem"])
    pixel, _ = _layers(content["state_dict_unet"], "_pix", content["lora_rank_unet_pix"])
    return QUSRCheckpoint(method="pisa-sr", lora=semantic, pixel_lora=pixel, noise=_NO_NOISE)


def _osediff(content: dict[str, Any]) -> QUSRCheckpoint:
    lora, base = _layers(content["state_dict_unet"], "", content["rank_unet"])
    return QUSRCheckpoint(
        method="osediff",
        lora=lora,
        vae_lora=_vae_layers(content),
        base_weights=base,
        noise=_NO_NOISE,
        timestep=OSEDIFF_TIMESTEP,
    )


def _codsr(content: dict[str, Any]) -> QUSRCheckpoint:
    # Base weights beside the LoRA are not taken over: the authors' code loads the LoRA alone.
    lora, _ = _layers(content["state_dict_unet"], "", content["rank_unet"])
    alignment, _ = _layers(content["state_dict_unet"], "_alignment", content["rank_unet"])
    return QUSRCheckpoint(
        method="codsr",
        lora=lora,
        alignment_lora=alignment,
        vae_lora=_vae_layers(content),
        modulation={name: _tensor(value, name) for name, value in content["state_dict_sft"].items()},
        noise=NoiseParameters(variant="sobel", p=1.0),
        timestep=CODSR_TIMESTEP,
    )


def _vae_layers(content: dict[str, Any]) -> dict[str, LoraLayer]:
    lora, base = _layers(content["state_dict_vae"], "", content["rank_vae"])
    if base:
        raise ValueError(f"the VAE part holds weights that are no LoRA ({next(iter(base))})")
    return lora


def _layers(state: dict[str, Any], ending: str, rank: int) -> tuple[dict[str, LoraLayer], dict[str, Tensor]]:
    """LoRA layers of the adapters with this ending, and the base weights that were trained too."""
    adapters = {f"default_{group}{ending}" for group in ("encoder", "decoder", "others")}
    halves: dict[str, dict[str, Tensor]] = {}
    base: dict[str, Tensor] = {}
    for key, value in state.items():
        tensor = _tensor(value, key)
        if ".lora_A." in key or ".lora_B." in key:
            side = "A" if ".lora_A." in key else "B"
            layer, adapter = key.removesuffix(".weight").split(f".lora_{side}.")
            if adapter in adapters:
                halves.setdefault(layer, {})[side] = tensor
        elif ".base_layer." in key:
            base[key.replace(".base_layer.", ".")] = tensor
        else:
            raise ValueError(f"unexpected weight {key}")
    lora = {}
    for layer, parts in halves.items():
        if set(parts) != {"A", "B"}:
            raise ValueError(f"LoRA layer {layer}: one of its two matrices is missing")
        if parts["A"].shape[0] != rank:
            raise ValueError(f"LoRA layer {layer}: expected rank {rank}, but got {parts['A'].shape[0]}")
        lora[layer] = LoraLayer(parts["A"], parts["B"], DEFAULT_ALPHA)
    if not lora:
        raise ValueError("there is no LoRA in it")
    return lora, base


def _tensor(value: Any, name: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise ValueError(f"{name}: expected a tensor, but got {type(value).__name__}")
    return as_weight(str(name), value)
