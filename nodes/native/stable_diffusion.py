"""QUSR, PiSA-SR and OSEDiff on a native Stable Diffusion 2.1-base MODEL and VAE."""

from __future__ import annotations

import copy
import math
from typing import Any

import comfy.diffusers_convert
import comfy.model_base
import comfy.patcher_extension
import comfy.utils
from torch import Tensor

from ...qusr_train.checkpoints.qusr_file import QUSRCheckpoint
from ...qusr_train.model.lora import LoraLayer
from ...qusr_train.model.schedule import alpha_bar
from .host import managed
from .lora import SwitchedLora, lora_patches
from .sampling import is_one_step, make_one_step
from .sockets import LoadedUEM

USE_INSTEAD = "load SD 2.1-base (v2-1_512-ema-pruned.safetensors, the 512 px epsilon model) instead"
_FAMILIES = {
    "SD15": "Stable Diffusion 1.x",
    "SD15_instructpix2pix": "InstructPix2Pix",
    "SD20": "Stable Diffusion 2.x",
    "SD21UnclipL": "Stable Diffusion 2.1 unCLIP",
    "SD21UnclipH": "Stable Diffusion 2.1 unCLIP",
    "SDXL": "SDXL",
    "SDXLRefiner": "the SDXL refiner",
    "SSD1B": "SSD-1B (an SDXL)",
    "Segmind_Vega": "Segmind Vega (an SDXL)",
}


def apply_checkpoint(
    model: Any, checkpoint: QUSRCheckpoint, strength: float = 1.0, pixel: float = 1.0, semantic: float = 1.0
) -> Any:
    """Patch a clone of a MODEL for one-step restoration.

    Args:
        model: SD 2.1-base as ComfyUI loaded it; stays as it is.
        checkpoint: the file's content.
        strength: scale of the LoRA weights, 1 as trained.
        pixel, semantic: PiSA-SR's two strengths; both 1 is its default mode, one pass. Anything else takes
            two passes, eps = pixel eps_pix + semantic (eps_full - eps_pix).

    Raises:
        ValueError: another base model, or strengths that the file has no LoRA for.
    """
    adjusted = (pixel, semantic) != (1.0, 1.0)
    if adjusted and not checkpoint.pixel_lora:
        raise ValueError(
            f"pixel, semantic: only PiSA-SR files have these two LoRA, but this one is {checkpoint.method}; "
            "leave both at 1 and use strength"
        )
    keys = _fitting_keys(model, {**checkpoint.lora, **checkpoint.pixel_lora}, checkpoint.base_weights)
    patched = model.clone()
    for name, weight in checkpoint.base_weights.items():  # first: the LoRA is trained on top of them
        patched.add_patches({keys[name]: ("set", (weight,))})
    if checkpoint.pixel_lora and strength:
        patched.add_patches(lora_patches(checkpoint.pixel_lora, keys), strength)
    if adjusted:
        _mix_two_passes(patched, _scaled(checkpoint.lora, strength), keys, pixel, semantic)
    elif strength:
        patched.add_patches(lora_patches(checkpoint.lora, keys), strength)
    signal, noise = 1.0, 1.0
    if checkpoint.method == "osediff":  # x0 of an epsilon model; QUSR and PiSA-SR subtract eps itself
        share = alpha_bar(checkpoint.timestep)
        signal, noise = math.sqrt(share), math.sqrt(1 - share)
    return make_one_step(patched, checkpoint.noise.variant, checkpoint.timestep, signal, noise)


def apply_to_vae(vae: Any, checkpoint: QUSRCheckpoint, strength: float = 1.0) -> Any:
    """A VAE with OSEDiff's encoder LoRA; the VAE itself for files without one.

    Raises:
        ValueError: no VAE, or one of another kind.
    """
    if not checkpoint.vae_lora:
        return vae
    if vae is None:
        raise ValueError(
            "vae: OSEDiff files also change the VAE's encoder; connect the VAE of SD 2.1-base here, and use this "
            "node's vae output for encoding"
        )
    keys = {name: _vae_key(name) for name in checkpoint.vae_lora}
    shapes = {key: tuple(weight.shape) for key, weight in vae.patcher.model_state_dict().items()}
    wrong = [name for name, key in keys.items() if math.prod(shapes.get(key, ())) != _size(checkpoint.vae_lora[name])]
    if wrong:
        raise ValueError(
            f"vae: OSEDiff's LoRA does not fit it (layer {wrong[0]}); connect the full VAE of SD 2.1-base, "
            "not a light decoder or another family's VAE"
        )
    patched = copy.copy(vae)
    patched.patcher = vae.patcher.clone()
    patched.patcher.add_patches(lora_patches(checkpoint.vae_lora, keys), strength)
    return patched


def loaded_uem(model: Any, checkpoint: QUSRCheckpoint) -> LoadedUEM:
    """The file's UEM with its noise parameters; for a method without one only the parameters (p = 0)."""
    scale = model.model.latent_format.scale_factor
    if not checkpoint.uem:
        return LoadedUEM(None, checkpoint.noise, scale)
    return LoadedUEM(managed(checkpoint.build_uem()), checkpoint.noise, scale)


def family(model: Any) -> str:
    """What a MODEL is, in words."""
    config = type(model.model.model_config).__name__
    name = _FAMILIES.get(config, config)
    if config == "SD20" and model.model.model_type == comfy.model_base.ModelType.V_PREDICTION:
        return "Stable Diffusion 2.x with v-prediction (the 768 px model)"
    return name


def _fitting_keys(model: Any, lora: dict[str, LoraLayer], base_weights: dict[str, Tensor]) -> dict[str, str]:
    """Name of each layer (or base weight) in the MODEL. Raises ValueError for a MODEL that does not fit."""
    if is_one_step(model):
        raise ValueError("model: carries a one-step checkpoint already; connect the plain SD 2.1-base MODEL")
    if model.model.model_type == comfy.model_base.ModelType.V_PREDICTION:
        raise ValueError(f"model: is {family(model)}, but the file was trained on SD 2.1-base; {USE_INSTEAD}")
    native = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    shapes = {key: weight.shape for key, weight in model.model.diffusion_model.state_dict().items()}
    keys = {}
    for name in [*lora, *base_weights]:
        full = name if name in base_weights else f"{name}.weight"
        shape = shapes.get(native.get(full, ""))
        expected = base_weights[name].shape if name in base_weights else _shape(lora[name])
        if shape != expected:
            found = "has no such layer" if shape is None else f"has {tuple(shape)} there"
            raise ValueError(
                f"model: is {family(model)}, but the file was trained on SD 2.1-base (layer {name} needs "
                f"{tuple(expected)}, the model {found}); {USE_INSTEAD}"
            )
        keys[name] = f"diffusion_model.{native[full]}"
    return keys


def _shape(layer: LoraLayer) -> Any:
    return (layer.up.shape[0], *layer.down.shape[1:])


def _size(layer: LoraLayer) -> int:
    return math.prod(_shape(layer))


def _scaled(lora: dict[str, LoraLayer], strength: float) -> dict[str, LoraLayer]:
    return {name: LoraLayer(layer.down, layer.up, layer.alpha * strength) for name, layer in lora.items()}


def _vae_key(name: str) -> str:
    """ComfyUI's name of a VAE layer that diffusers calls `name`."""
    one = Tensor([[0.0]])
    return next(iter(comfy.diffusers_convert.convert_vae_state_dict({f"{name}.weight": one})))


def _mix_two_passes(
    patcher: Any, semantic_lora: dict[str, LoraLayer], keys: dict[str, str], pixel: float, semantic: float
) -> None:
    """PiSA-SR's adjustable mode: the strengths act on outputs, so the model runs with and without one LoRA."""
    switch = {"on": False}
    for name, layer in semantic_lora.items():
        patcher.add_weight_wrapper(keys[name], SwitchedLora(layer, switch))

    def both(apply_model: Any, x: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
        try:
            without = apply_model(x, *arguments, **keywords)  # x - eps_pix
            switch["on"] = True
            full = apply_model(x, *arguments, **keywords)  # x - eps_full
        finally:
            switch["on"] = False
        return x - pixel * (x - without) - semantic * (without - full)

    patcher.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.APPLY_MODEL, "qusr_two_passes", both)
