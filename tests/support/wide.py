"""The golden model widened to Stable Diffusion 2.1's own widths: `python -m tests.support.wide MODELS_FOLDER`.

ComfyUI knows a model by its widths, so the golden model as it is would not be taken for Stable Diffusion 2.1. Here
every channel is written several times and only its first copy is read. Means and variances, and with them every norm,
stay what they are; heads of attention are filled up with zeros. So the wide model gives the golden model's results up
to float rounding, and the golden LoRA, widened alike, fit it.

Written are, in ComfyUI's own layout, `checkpoints/v2-1_512-ema-pruned.safetensors`, and the authors' `qusr.pkl`,
`pisa_sr.pkl` and `codsr.pkl` in `qusr/`, with `qusr.safetensors` converted from the first.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .golden import GOLDEN

CHECKPOINT = "v2-1_512-ema-pruned.safetensors"
UNET_FACTOR, TEXT_FACTOR, TEXT_LAYERS = 10, 32, 24
VAE_WIDTHS = (128, 256, 512, 512)
NARROW = 32
"""Width of every level of the golden VAE, and of the golden text."""


@dataclass(frozen=True)
class Space:
    """How the channels of a layer's input or output are widened."""

    source: Tensor
    """(wide,): the narrow channel that each wide channel copies, -1 for a channel of zeros."""
    reader: Tensor
    """(narrow,): the wide channel that is read for each narrow one."""


def same(channels: int) -> Space:
    return repeated(channels, 1)


def repeated(channels: int, factor: int) -> Space:
    one = torch.arange(channels)
    return Space(one.repeat_interleave(factor), one * factor)


def heads(channels: int, head: int, wide: int) -> Space:
    """Heads of attention, filled up with zeros to 64 channels, and with heads of zeros to the wide width."""
    one = torch.arange(channels)
    reader = one // head * 64 + one % head
    source = torch.full((wide,), -1)
    source[reader] = one
    return Space(source, reader)


def widen(weight: Tensor, out: Space | None, into: Space | None = None, gain: float = 1.0) -> Tensor:
    """A weight or bias between wide spaces; None leaves that side as it is.

    Args:
        weight: (out), or (out, in, ...).
        gain: for attention, whose scores are divided by the root of the head's width.
    """
    weight = weight.float() * gain
    if out is not None:
        zero = torch.zeros_like(weight[:1])
        weight = torch.cat([weight, zero])[out.source]
    if into is None or weight.ndim == 1:
        return weight
    wide = torch.zeros(weight.shape[0], len(into.source), *weight.shape[2:])
    wide[:, into.reader] = weight
    return wide


def unet_spaces(layer: str, out: int, into: int) -> tuple[Space, Space, float]:
    """Spaces of a UNet layer by its diffusers name, and the gain of its weights."""
    gain, outer, inner = 1.0, repeated(out, UNET_FACTOR), repeated(into, UNET_FACTOR)
    if layer == "conv_in":
        inner = same(into)
    elif layer == "conv_out":
        outer = same(out)
    elif layer.endswith((".to_q", ".to_k", ".to_v")):
        outer = heads(out, 32, out * UNET_FACTOR)
        gain = math.sqrt(64 / 32) if layer.endswith(".to_q") else 1.0
        if layer.endswith((".attn2.to_k", ".attn2.to_v")):
            inner = repeated(into, TEXT_FACTOR)
    elif layer.endswith(".to_out.0"):
        inner = heads(into, 32, into * UNET_FACTOR)
    return outer, inner, gain


def wide_unet() -> dict[str, Tensor]:
    """Weights of the UNet under their names in a single file."""
    import comfy.utils

    weights = load_file(GOLDEN / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    names = comfy.utils.unet_to_diffusers({
        "num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 1, 2, 2], "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_output": [1] * 9 + [0] * 3, "transformer_depth_middle": 1,
    })  # fmt: skip
    wide = {}
    for name, weight in weights.items():
        layer = name.rpartition(".")[0]
        outer, inner, gain = unet_spaces(layer, weight.shape[0], weight.shape[1] if weight.ndim > 1 else 1)
        wide[f"model.diffusion_model.{names[name]}"] = widen(weight, outer, inner, gain)
    # ComfyUI takes a wide spread of this bias for the 768 px model; only its first copies are read.
    told_by = wide["model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"]
    told_by[torch.arange(len(told_by)) % UNET_FACTOR != 0] = 0.0
    return wide


def vae_widths(layer: str) -> tuple[int, int]:
    """Wide output and input of a VAE layer by its diffusers name; 32 stands for what is not widened."""
    part, _, rest = layer.partition(".")
    if part not in ("encoder", "decoder"):
        return NARROW, NARROW
    widths = VAE_WIDTHS if part == "encoder" else VAE_WIDTHS[::-1]
    kind, *numbers = rest.split(".")
    if kind == "conv_in":
        return widths[0], NARROW
    if kind in ("conv_out", "conv_norm_out"):
        return (NARROW, widths[-1]) if kind == "conv_out" else (widths[-1], NARROW)
    level = int(numbers[0]) if kind.endswith("_blocks") else (3 if part == "encoder" else 0)
    out = into = widths[level]
    if level and layer.endswith((".resnets.0.norm1", ".resnets.0.conv1", ".resnets.0.conv_shortcut")):
        into = widths[level - 1] if kind.endswith("_blocks") else into
        out = into if layer.endswith("norm1") else out
    return out, into


def wide_vae() -> dict[str, Tensor]:
    """Weights of the VAE under their names in a single file."""
    import comfy.diffusers_convert

    weights = load_file(GOLDEN / "model" / "vae" / "diffusion_pytorch_model.safetensors")
    for layer in {name.rpartition(".")[0] for name in weights}:
        out, into = vae_widths(layer)
        if layer.endswith(".resnets.0.conv1") and out != into:  # the wide model's level changes its width
            shortcut = layer.replace("conv1", "conv_shortcut")
            weights |= {
                f"{shortcut}.weight": torch.eye(NARROW)[..., None, None],
                f"{shortcut}.bias": torch.zeros(NARROW),
            }
    wide = {}
    for name, weight in weights.items():
        layer = name.rpartition(".")[0]
        out, into = vae_widths(layer)
        outer = repeated(weight.shape[0], out // NARROW)
        inner = repeated(weight.shape[1], into // NARROW) if weight.ndim > 1 else None
        # Each copy adds to the scores of the attention, whose scale grows by the root of their number.
        gain = math.sqrt(out // NARROW) / (out // NARROW) if layer.endswith(".to_q") else 1.0
        wide[name] = widen(weight, outer, inner, gain)
    native = comfy.diffusers_convert.convert_vae_state_dict(wide)
    return {f"first_stage_model.{name}": weight for name, weight in native.items()}


def wide_text() -> dict[str, Tensor]:
    """Weights of the text encoder in OpenCLIP's form; the layers that the golden one lacks add nothing."""
    state = load_file(GOLDEN / "model" / "text_encoder" / "used_tokens.safetensors")
    width = NARROW * TEXT_FACTOR
    text, inside = repeated(NARROW, TEXT_FACTOR), heads(NARROW, 16, width)
    tokens = torch.zeros(49408, width, dtype=torch.float16)
    tokens[state.pop("token_ids").long()] = state.pop("token_rows")[:, text.source]
    wide = {
        "token_embedding.weight": tokens,
        "positional_embedding": state.pop("text_model.embeddings.position_embedding.weight")[:, text.source],
        "text_projection": torch.zeros(width, width),
        **{
            f"ln_final.{name}": widen(state[f"text_model.final_layer_norm.{name}"], text) for name in ("weight", "bias")
        },
    }
    shapes = {
        "ln_1.weight": (width,), "ln_1.bias": (width,), "ln_2.weight": (width,), "ln_2.bias": (width,),
        "attn.in_proj_weight": (3 * width, width), "attn.in_proj_bias": (3 * width,),
        "attn.out_proj.weight": (width, width), "attn.out_proj.bias": (width,),
        "mlp.c_fc.weight": (4 * width, width), "mlp.c_fc.bias": (4 * width,),
        "mlp.c_proj.weight": (width, 4 * width), "mlp.c_proj.bias": (width,),
    }  # fmt: skip
    for number in range(TEXT_LAYERS):
        layer = {name: torch.zeros(shape, dtype=torch.float16) for name, shape in shapes.items()}
        old = f"text_model.encoder.layers.{number}"
        if f"{old}.layer_norm1.weight" in state:
            layer = _text_layer({name.removeprefix(f"{old}."): weight for name, weight in state.items()}, text, inside)
        wide |= {f"transformer.resblocks.{number}.{name}": weight for name, weight in layer.items()}
    return {f"cond_stage_model.model.{name}": weight for name, weight in wide.items()}


def _text_layer(old: dict[str, Tensor], text: Space, inside: Space) -> dict[str, Tensor]:
    hidden = repeated(2 * NARROW, len(text.source) * 4 // (2 * NARROW))
    layer: dict[str, Tensor] = {}
    for name in ("weight", "bias"):
        parts = [
            widen(old[f"self_attn.{part}_proj.{name}"], inside, text, 2.0 if part == "q" else 1.0) for part in "qkv"
        ]
        layer[f"attn.in_proj_{name}"] = torch.cat(parts)
        layer[f"attn.out_proj.{name}"] = widen(old[f"self_attn.out_proj.{name}"], text, inside)
        layer[f"mlp.c_fc.{name}"] = widen(old[f"mlp.fc1.{name}"], hidden, text)
        layer[f"mlp.c_proj.{name}"] = widen(old[f"mlp.fc2.{name}"], text, hidden)
        layer[f"ln_1.{name}"] = widen(old[f"layer_norm1.{name}"], text)
        layer[f"ln_2.{name}"] = widen(old[f"layer_norm2.{name}"], text)
    return layer


def wide_reference(name: str) -> dict[str, Any]:
    """A file of tests/golden/checkpoints with its UNet LoRA widened."""
    content = torch.load(GOLDEN / "checkpoints" / f"{name}.pkl", weights_only=True)
    lora = content["state_dict_unet"]
    for key, weight in lora.items():
        layer, side = key.split(".lora_")[0], key.split(".lora_")[1][0]
        outer, inner, gain = unet_spaces(layer, weight.shape[0], weight.shape[1])
        lora[key] = widen(weight, None, inner) if side == "A" else widen(weight, outer, None, gain)
    for key, weight in content.get("state_dict_vae", {}).items():
        layer, side = key.split(".lora_")[0], key.split(".lora_")[1][0]
        out, into = (repeated(NARROW, width // NARROW) for width in vae_widths(layer))
        if side == "A":
            content["state_dict_vae"][key] = widen(weight, None, into if weight.shape[1] == NARROW else None)
        else:
            # As the weight itself in `wide_vae`.
            gain = math.sqrt(len(out.source) / NARROW) / (len(out.source) / NARROW) if layer.endswith(".to_q") else 1.0
            content["state_dict_vae"][key] = widen(weight, out if weight.shape[0] == NARROW else None, None, gain)
    for key, weight in content.get("state_dict_sft", {}).items():
        features = repeated(weight.shape[0], UNET_FACTOR)
        content["state_dict_sft"][key] = widen(weight, features, features if "conv1" in key else None)
    return content


def _compact(weight: Tensor) -> Tensor:
    """Half precision where it holds every value, as in the published file."""
    half = weight.half()
    return half.contiguous() if torch.equal(half.float(), weight.float()) else weight.contiguous()


def write(models: Path) -> None:
    """Write the files into a ComfyUI models folder."""
    from qusr_train.checkpoints.load import load_checkpoint
    from qusr_train.checkpoints.qusr_file import save_qusr

    for folder in ("checkpoints", "qusr"):
        (models / folder).mkdir(parents=True, exist_ok=True)
    weights = {**wide_unet(), **wide_vae(), **wide_text()}
    save_file({name: _compact(weight) for name, weight in weights.items()}, models / "checkpoints" / CHECKPOINT)
    for name in ("qusr", "pisa_sr", "codsr"):
        torch.save(wide_reference(name), models / "qusr" / f"{name}.pkl")
    save_qusr(models / "qusr" / "qusr.safetensors", load_checkpoint(models / "qusr" / "qusr.pkl"))


if __name__ == "__main__":
    from .comfyui import comfyui_path

    sys.path.insert(0, str(comfyui_path()))
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    write(Path(sys.argv[1]))
