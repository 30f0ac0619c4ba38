"""QUSR, PiSA-SR, OSEDiff and CODSR on a native Stable Diffusion 2.1-base MODEL and VAE."""

from __future__ import annotations

import copy
import math

import comfy.diffusers_convert
import comfy.model_base
import comfy.patcher_extension
import comfy.utils
from torch import Tensor

from ...qusr_train.checkpoints.qusr_file import QUSRCheckpoint
from ...qusr_train.model.lora import LoraLayer
from ...qusr_train.model.modulation import build_modulation
from ...qusr_train.model.schedule import alpha_bar
from .comfy_types import MODEL, VAE, Executor
from .cpu import use_cpu_kernels
from .dial import Dial, Turned, attach_dial, fade_residual
from .host import managed
from .lora import SwitchedLora, lora_patches
from .photo_guide import attach_guide
from .sampling import is_one_step, make_one_step
from .sockets import LoadedUEM

USE_INSTEAD = "load SD 2.1-base (v2-1_512-ema-pruned.safetensors, the 512 px epsilon model) instead"
METHOD_NAMES = {"qusr": "QUSR", "pisa-sr": "PiSA-SR", "osediff": "OSEDiff", "codsr": "CODSR"}
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
    model: MODEL, checkpoint: QUSRCheckpoint, strength: float = 1.0, pixel: float = 1.0, semantic: float = 1.0
) -> MODEL:
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
    everything = {**checkpoint.lora, **checkpoint.pixel_lora, **checkpoint.alignment_lora}
    keys = _fitting_keys(model, everything, checkpoint.base_weights)
    patched = model.clone()
    for name, weight in checkpoint.base_weights.items():  # first: the LoRA is trained on top of them
        patched.add_patches({keys[name]: ("set", (weight,))})
    if checkpoint.pixel_lora and strength:
        patched.add_patches(lora_patches(checkpoint.pixel_lora, keys), strength)
    dial: Dial = fade_residual
    if adjusted:
        switch = _add_second_lora(patched, _scaled(checkpoint.lora, strength), keys)
        _mix_two_passes(patched, switch, pixel, semantic)
        dial = _mixed_dial(switch, pixel, semantic)
    elif strength:
        patched.add_patches(lora_patches(checkpoint.lora, keys), strength)
        if checkpoint.pixel_lora:
            dial = _merged_dial(checkpoint.lora, keys, strength)
    attach_dial(patched, dial)
    if checkpoint.alignment_lora and strength:
        patched.add_patches(lora_patches(checkpoint.alignment_lora, keys), strength)
    signal, noise = 1.0, 1.0
    if checkpoint.method in ("osediff", "codsr"):  # x0 of an epsilon model; QUSR and PiSA-SR subtract eps itself
        share = alpha_bar(checkpoint.timestep)
        signal, noise = math.sqrt(share), math.sqrt(1 - share)
    if checkpoint.modulation:
        attach_guide(patched, build_modulation(checkpoint.modulation), strength * signal / noise)
    use_cpu_kernels(patched)
    diffused = checkpoint.method == "codsr"
    return make_one_step(patched, checkpoint.noise.variant, checkpoint.timestep, signal, noise, diffused)


def apply_to_vae(vae: VAE | None, checkpoint: QUSRCheckpoint, strength: float = 1.0) -> VAE | None:
    """A VAE with the encoder LoRA of OSEDiff or CODSR; the VAE itself for files without one.

    Raises:
        ValueError: no VAE, or one of another kind.
    """
    if not checkpoint.vae_lora:
        return vae
    name = METHOD_NAMES[checkpoint.method]
    if vae is None:
        raise ValueError(
            f"vae: {name} files also change the VAE's encoder; connect the VAE of SD 2.1-base "
            "here, and use this node's vae output for encoding"
        )
    keys = {layer: _vae_key(layer) for layer in checkpoint.vae_lora}
    shapes = {key: tuple(weight.shape) for key, weight in vae.patcher.model_state_dict().items()}
    wrong = [one for one, key in keys.items() if math.prod(shapes.get(key, ())) != _size(checkpoint.vae_lora[one])]
    if wrong:
        raise ValueError(
            f"vae: {name}'s LoRA does not fit it (layer {wrong[0]}); connect the full VAE "
            "of SD 2.1-base, not a light decoder or another family's VAE"
        )
    patched = copy.copy(vae)
    patched.patcher = vae.patcher.clone()
    patched.patcher.add_patches(lora_patches(checkpoint.vae_lora, keys), strength)
    return patched


def loaded_uem(model: MODEL, checkpoint: QUSRCheckpoint) -> LoadedUEM:
    """The file's UEM with its noise parameters; for a method without one only the parameters."""
    scale = model.model.latent_format.scale_factor
    if not checkpoint.uem:
        return LoadedUEM(None, checkpoint.noise, scale)
    return LoadedUEM(managed(checkpoint.build_uem()), checkpoint.noise, scale)


def family(model: MODEL) -> str:
    """What a MODEL is, in words."""
    config = type(model.model.model_config).__name__
    name = _FAMILIES.get(config, config)
    if config == "SD20" and model.model.model_type == comfy.model_base.ModelType.V_PREDICTION:
        return "Stable Diffusion 2.x with v-prediction (the 768 px model)"
    return name


def _fitting_keys(model: MODEL, lora: dict[str, LoraLayer], base_weights: dict[str, Tensor]) -> dict[str, str]:
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


def _shape(layer: LoraLayer) -> tuple[int, ...]:
    return (layer.up.shape[0], *layer.down.shape[1:])


def _size(layer: LoraLayer) -> int:
    return math.prod(_shape(layer))


def _scaled(lora: dict[str, LoraLayer], strength: float) -> dict[str, LoraLayer]:
    return {name: LoraLayer(layer.down, layer.up, layer.alpha * strength) for name, layer in lora.items()}


def _vae_key(name: str) -> str:
    """ComfyUI's name of a VAE layer that diffusers calls `name`."""
    one = Tensor([[0.0]])
    return next(iter(comfy.diffusers_convert.convert_vae_state_dict({f"{name}.weight": one})))


def _merged_dial(semantic_lora: dict[str, LoraLayer], keys: dict[str, str], strength: float) -> Dial:
    """PiSA-SR in one pass: the semantic LoRA is taken out of the weights, and mixed in at the output."""

    def dial(model: MODEL, detail: float) -> Turned:
        turned = model.clone()
        turned.add_patches(lora_patches(semantic_lora, keys), -strength)
        if detail:
            switch = _add_second_lora(turned, _scaled(semantic_lora, strength), keys)
            _mix_two_passes(turned, switch, 1.0, detail)
        return Turned(turned)

    return dial


def _mixed_dial(switch: dict[str, bool], pixel: float, semantic: float) -> Dial:
    """PiSA-SR in two passes already: the dial multiplies the semantic strength."""

    def dial(model: MODEL, detail: float) -> Turned:
        turned = model.clone()
        _mix_two_passes(turned, switch, pixel, semantic * detail)
        return Turned(turned)

    return dial


def _add_second_lora(patcher: MODEL, lora: dict[str, LoraLayer], keys: dict[str, str]) -> dict[str, bool]:
    """Put a LoRA onto the weights that is added only while the returned switch is on."""
    switch = {"on": False}
    for name, layer in lora.items():
        patcher.add_weight_wrapper(keys[name], SwitchedLora(layer, switch))
    return switch


def _mix_two_passes(patcher: MODEL, switch: dict[str, bool], pixel: float, semantic: float) -> None:
    """PiSA-SR's adjustable mode: the strengths act on outputs, so the model runs with and without one LoRA."""

    def both(apply_model: Executor, x: Tensor, *arguments: object, **keywords: object) -> Tensor:
        try:
            without = apply_model(x, *arguments, **keywords)  # x - eps_pix
            switch["on"] = True
            full = apply_model(x, *arguments, **keywords)  # x - eps_full
        finally:
            switch["on"] = False
        return x - pixel * (x - without) - semantic * (without - full)

    kind = comfy.patcher_extension.WrappersMP.APPLY_MODEL
    patcher.remove_wrappers_with_key(kind, "qusr_two_passes")  # of an earlier position of the dial
    patcher.add_wrapper_with_key(kind, "qusr_two_passes", both)
