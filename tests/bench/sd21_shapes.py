"""Stable Diffusion 2.1's shapes with random weights, as diffusers' modules and inside ComfyUI.

Real weights cannot be had everywhere; time and memory do not depend on their values.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
SCALE = 0.18215
UNET = {
    "sample_size": 64, "in_channels": 4, "out_channels": 4, "block_out_channels": (320, 640, 1280, 1280),
    "attention_head_dim": (5, 10, 20, 20), "cross_attention_dim": 1024, "use_linear_projection": True,
}  # fmt: skip
VAE = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
TEXT = {
    "vocab_size": 49408, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23,
    "num_attention_heads": 16, "hidden_act": "gelu", "projection_dim": 512,
}  # fmt: skip


def weights(shapes: dict[str, torch.Size], seed: int) -> Iterator[tuple[str, Tensor]]:
    """Random weights that keep activations in range: the same for the same names and seed."""
    for index, (name, shape) in enumerate(sorted(shapes.items())):
        generator = torch.Generator().manual_seed(seed * 100_003 + index)
        if len(shape) == 1:
            value = torch.ones(shape) if "norm" in name and name.endswith("weight") else torch.zeros(shape)
        else:
            fan_in = shape[1:].numel()
            value = (torch.rand(shape, generator=generator) * 2 - 1) * (1.5 / fan_in) ** 0.5
        yield name, value


def skeleton(kind: str) -> Any:
    """The diffusers (or transformers) module without memory."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        if kind == "unet":
            return UNet2DConditionModel(**UNET)
        if kind == "vae":
            return AutoencoderKL(**VAE)
        return CLIPTextModel(CLIPTextConfig(**TEXT))


def parameter_shapes(module: Any) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in module.state_dict().items() if "position_ids" not in name}


def photo(size: int) -> Tensor:
    """A smooth picture with some texture, (1, size, size, 3) in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, max(2, size // 32), max(2, size // 32), generator=generator)
    fine = torch.rand(1, 3, size, size, generator=generator) * 0.1
    image = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic") * 0.8 + fine
    return image.clamp(0, 1).movedim(1, -1)


def import_pack(cpu: bool) -> Any:
    """The extension inside ComfyUI, in this process."""
    import importlib.util

    from tests.support.comfyui import comfyui_path

    sys.path.insert(0, str(comfyui_path()))
    import comfy.cli_args

    comfy.cli_args.args.cpu = cpu
    spec = importlib.util.spec_from_file_location(
        "qusr_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None
    assert spec.loader is not None
    pack = importlib.util.module_from_spec(spec)
    sys.modules["qusr_pack"] = pack
    spec.loader.exec_module(pack)
    return pack


def native_models(device: torch.device, dtype: torch.dtype) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of ComfyUI with the same weights as the modules of diffusers."""
    import comfy.model_base
    import comfy.model_management
    import comfy.model_patcher
    import comfy.sd
    import comfy.supported_models
    import comfy.text_encoders.sd2_clip
    import comfy.utils

    shape = {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [2, 2, 2, 2],
        "channel_mult": [1, 2, 4, 4], "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], "context_dim": 1024,
        "use_linear_in_transformer": True, "use_spatial_transformer": True, "legacy": False, "adm_in_channels": None,
        "use_temporal_attention": False, "dtype": dtype,
    }  # fmt: skip
    base = comfy.model_base.BaseModel(comfy.supported_models.SD20(shape))
    names = comfy.utils.unet_to_diffusers(base.model_config.unet_config)
    given = weights(parameter_shapes(skeleton("unet")), 0)
    base.diffusion_model.load_state_dict({names[name]: value.to(dtype) for name, value in given})
    management = comfy.model_management
    model = comfy.model_patcher.ModelPatcher(
        base.eval(), load_device=management.get_torch_device(), offload_device=management.unet_offload_device()
    )
    vae = comfy.sd.VAE(sd=dict(weights(parameter_shapes(skeleton("vae")), 1)), dtype=dtype)
    target = comfy.supported_models.SD20(shape).clip_target()
    clip = comfy.sd.CLIP(target, model_options={"dtype": dtype})
    text = clip.cond_stage_model.clip_h.transformer
    state = {
        name if name.startswith("text_model.") else f"text_model.{name}": value.to(dtype)
        for name, value in weights(parameter_shapes(skeleton("text")), 2)
    }
    missing = text.load_state_dict(state, strict=False).missing_keys
    # ComfyUI reads the last but one of 24 layers; diffusers' SD 2.1 has 23. The 24th is never used.
    rest = [name for name in missing if ".layers.23." not in name and "text_projection" not in name]
    if rest:
        raise RuntimeError(f"text encoder: {rest[:3]} have no weights")
    return model, clip, vae
