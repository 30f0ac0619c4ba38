"""Stable Diffusion 2.x in one file, as it was published: its layers under diffusers' names.

The file has the names of the original code (`model.diffusion_model.`, `first_stage_model.`) and OpenCLIP's
(`cond_stage_model.model.`). Sizes are read from the shapes, so that small models of the same build load too.
"""

from __future__ import annotations

import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..errors import InputError

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.model."
HEAD = 64
"""Channels of an attention head in SD 2.x's UNet and text encoder."""
LEVELS, BLOCKS = 4, 2
# ComfyUI tells the 768 model apart in the same way: v-prediction spreads this bias wider.
_TELLS = f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias"
_V_PREDICTION_SPREAD = 0.09

_RESNET = {
    "in_layers.0": "norm1", "in_layers.2": "conv1", "out_layers.0": "norm2", "out_layers.3": "conv2",
    "emb_layers.1": "time_emb_proj", "skip_connection": "conv_shortcut",
}  # fmt: skip
_UNET_ENDS = {
    "input_blocks.0.0": "conv_in", "time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2",
    "out.0": "conv_norm_out", "out.2": "conv_out",
}  # fmt: skip
_VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_TEXT_LAYER = {
    "ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj", "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}  # fmt: skip
_TEXT_ENDS = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight", "ln_final.bias": "final_layer_norm.bias",
}  # fmt: skip


@dataclass(frozen=True)
class SingleFile:
    """What a file holds: for each part its weights under diffusers' names, and the settings that build it."""

    unet: dict[str, Tensor]
    unet_config: dict[str, Any]
    vae: dict[str, Tensor]
    vae_config: dict[str, Any]
    text: dict[str, Tensor]
    """Without the prefix `text_model.`."""
    text_config: dict[str, Any]


def unet_name(name: str) -> str:
    """diffusers' name of a UNet weight of the original code (without `model.diffusion_model.`)."""
    for old, new in _UNET_ENDS.items():
        if name.startswith(f"{old}."):
            return name.replace(old, new, 1)
    if match := re.fullmatch(r"middle_block\.(\d)\.(.+)", name):
        place, rest = int(match[1]), match[2]
        return f"mid_block.attentions.0.{rest}" if place == 1 else f"mid_block.resnets.{place // 2}.{_inner(rest)}"
    match = re.fullmatch(r"(input|output)_blocks\.(\d+)\.(\d)\.(.+)", name)
    if match is None:
        raise ValueError(f"unexpected UNet weight {name}")
    side, number, place, rest = match[1], int(match[2]), int(match[3]), match[4]
    if side == "input":
        level, block = divmod(number - 1, BLOCKS + 1)
        if rest.startswith("op."):
            return f"down_blocks.{level}.downsamplers.0.conv.{rest[3:]}"
        where = f"down_blocks.{level}"
    else:
        level, block = divmod(number, BLOCKS + 1)
        if rest.startswith("conv."):
            return f"up_blocks.{level}.upsamplers.0.{rest}"
        where = f"up_blocks.{level}"
    return f"{where}.attentions.{block}.{rest}" if place == 1 else f"{where}.resnets.{block}.{_inner(rest)}"


def _inner(rest: str) -> str:
    layer, kind = rest.rsplit(".", 1)
    return f"{_RESNET[layer]}.{kind}"


def vae_name(name: str) -> str:
    """diffusers' name of a VAE weight of the original code (without `first_stage_model.`)."""
    if match := re.fullmatch(r"(encoder|decoder)\.mid\.block_([12])\.(.+)", name):
        return f"{match[1]}.mid_block.resnets.{int(match[2]) - 1}.{_short(match[3])}"
    if match := re.fullmatch(r"(encoder|decoder)\.mid\.attn_1\.(\w+)\.(\w+)", name):
        return f"{match[1]}.mid_block.attentions.0.{_VAE_ATTENTION[match[2]]}.{match[3]}"
    if match := re.fullmatch(r"(encoder|decoder)\.(down|up)\.(\d)\.(block\.(\d)|(?:down|up)sample)\.(.+)", name):
        level = int(match[3]) if match[2] == "down" else LEVELS - 1 - int(match[3])
        where = f"{match[1]}.{match[2]}_blocks.{level}"
        return f"{where}.resnets.{match[5]}.{_short(match[6])}" if match[5] else f"{where}.{match[4]}rs.0.{match[6]}"
    return name.replace("norm_out", "conv_norm_out")


def _short(rest: str) -> str:
    return rest.replace("nin_shortcut", "conv_shortcut")


def text_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """transformers' names for OpenCLIP's text encoder, whose last layer SD 2.x does not read."""
    layers = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("transformer.resblocks."))
    result = {new: state[old] for old, new in _TEXT_ENDS.items()}
    for name, value in state.items():
        match = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)[._](weight|bias)", name)
        if match is None or int(match[1]) == layers - 1:
            continue
        where, layer, kind = f"encoder.layers.{match[1]}", match[2], match[3]
        if layer == "attn.in_proj":
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                result[f"{where}.self_attn.{part}_proj.{kind}"] = piece
        else:
            result[f"{where}.{_TEXT_LAYER[layer]}.{kind}"] = value
    return result


def read_single_file(path: Path, field: str) -> SingleFile:
    """Read a `.safetensors` or `.ckpt`; no code in it is run.

    Args:
        field: the setting that names the file, for messages.

    Raises:
        ValueError: not readable, or not SD 2.1-base.
    """
    state = _load(path, field)
    if reason := _other_model(state):
        remedy = "give SD 2.1-base (v2-1_512-ema-pruned.safetensors), or its folder in diffusers form"
        raise InputError(f"{reason}; {remedy}", field, path)
    try:
        unet = {unet_name(name): value for name, value in _part(state, UNET).items()}
        vae = {vae_name(name): value for name, value in _part(state, VAE).items() if "loss." not in name}
        text = text_weights(_part(state, TEXT))
        for name, value in vae.items():
            if ".attentions.0.to_" in name and value.ndim == 4:  # 1 x 1 convolutions, linear layers in diffusers
                vae[name] = value[:, :, 0, 0]
        return SingleFile(unet, unet_config(unet), vae, vae_config(vae), text, text_config(text))
    except (KeyError, ValueError, IndexError) as error:
        raise InputError(f"not built like SD 2.1-base ({error})", field, path) from error


def _load(path: Path, field: str) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return content.get("state_dict", content)
    except (OSError, EOFError, RuntimeError, AttributeError, SafetensorError, pickle.UnpicklingError) as error:
        raise InputError(f"damaged or not a weight file ({error})", field, path) from error


def _other_model(state: dict[str, Tensor]) -> str:
    """What a file is when it is not SD 2.1-base; empty when it is."""

    def has(prefix: str) -> bool:
        return any(name.startswith(prefix) for name in state)

    if not has(UNET):
        return "holds no Stable Diffusion UNet"
    if has("conditioner."):
        return "is SDXL, but the models were trained on SD 2.1-base"
    if has("cond_stage_model.transformer."):
        return "is Stable Diffusion 1.x, but the models were trained on SD 2.1-base"
    if not has(TEXT) or not has(VAE):
        return f"has no {'VAE' if has(TEXT) else 'text encoder'} in it"
    if _TELLS in state and state[_TELLS].float().std() > _V_PREDICTION_SPREAD:
        return "predicts v, so it is the 768 model of SD 2.1"
    return ""


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def unet_config(unet: dict[str, Tensor]) -> dict[str, Any]:
    """What builds diffusers' UNet2DConditionModel."""
    channels = [unet[f"down_blocks.{level}.resnets.0.conv1.weight"].shape[0] for level in range(LEVELS)]
    head = min(HEAD, channels[0])
    return {
        "in_channels": unet["conv_in.weight"].shape[1], "out_channels": unet["conv_out.weight"].shape[0],
        "sample_size": 64, "block_out_channels": channels, "layers_per_block": BLOCKS,
        "attention_head_dim": [c // head for c in channels],  # diffusers calls the number of heads so
        "cross_attention_dim": unet["mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"].shape[1],
        "use_linear_projection": unet["mid_block.attentions.0.proj_in.weight"].ndim == 2,
    }  # fmt: skip


def vae_config(vae: dict[str, Tensor]) -> dict[str, Any]:
    """What builds diffusers' AutoencoderKL."""
    return {
        "block_out_channels": [vae[f"encoder.down_blocks.{i}.resnets.0.conv1.weight"].shape[0] for i in range(LEVELS)],
        "down_block_types": ["DownEncoderBlock2D"] * LEVELS, "up_block_types": ["UpDecoderBlock2D"] * LEVELS,
        "layers_per_block": BLOCKS, "latent_channels": vae["post_quant_conv.weight"].shape[0],
        "scaling_factor": 0.18215,
    }  # fmt: skip


def text_config(text: dict[str, Tensor]) -> dict[str, Any]:
    """What builds transformers' CLIPTextModel."""
    vocabulary, width = text["embeddings.token_embedding.weight"].shape
    return {
        "vocab_size": vocabulary, "hidden_size": width, "hidden_act": "gelu",
        "intermediate_size": text["encoder.layers.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": 1 + max(int(name.split(".")[2]) for name in text if name.startswith("encoder.layers.")),
        "num_attention_heads": max(1, width // HEAD), "max_position_embeddings": 77, "projection_dim": 512,
    }  # fmt: skip
