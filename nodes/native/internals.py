"""Every part of ComfyUI beyond its node API (`comfy_api`) that this extension relies on.

ComfyUI promises nothing about them: a release may rename or remove one. `tests/nodes/test_internals.py` looks each up
in the ComfyUI it runs on, and sees to it that what the nodes use of ComfyUI's modules is listed here. At start
`missing` tells a user of a ComfyUI that is newer than this extension what is gone, before a node fails on it.
"""

from __future__ import annotations

import importlib
from typing import Any

MODULES: dict[str, tuple[str, ...]] = {
    "comfy.conds": ("CONDNoiseShape", "CONDRegular"),
    "comfy.diffusers_convert": ("convert_vae_state_dict",),
    "comfy.latent_formats": ("LatentFormat",),
    "comfy.ldm.models.autoencoder": ("AutoencoderKL",),
    "comfy.ldm.modules.attention": ("attention_pytorch",),
    "comfy.ldm.modules.diffusionmodules.model": ("Decoder", "Encoder", "pytorch_attention"),
    "comfy.lora": ("load_lora",),
    "comfy.model_base": ("BaseModel", "ModelType.V_PREDICTION"),
    "comfy.model_management": (
        "current_loaded_models",
        "extra_reserved_memory",
        "free_memory",
        "get_free_memory",
        "get_torch_device",
        "get_total_memory",
        "intermediate_device",
        "load_model_gpu",
        "load_models_gpu",
        "soft_empty_cache",
        "throw_exception_if_processing_interrupted",
        "unet_offload_device",
        "unload_all_models",
    ),
    "comfy.model_patcher": ("ModelPatcher",),
    "comfy.patcher_extension": (
        "CallbacksMP.ON_DETACH",
        "WrappersMP.APPLY_MODEL",
        "WrappersMP.DIFFUSION_MODEL",
        "WrappersMP.PREPARE_SAMPLING",
        "WrappersMP.SAMPLER_SAMPLE",
    ),
    "comfy.samplers": ("CFGGuider.inner_set_conds", "CFGGuider.sample", "ksampler"),
    "comfy.sd": ("CLIP", "VAE"),
    "comfy.sd1_clip": ("SD1ClipModel", "SD1Tokenizer", "SDClipModel", "SDTokenizer"),
    "comfy.supported_models_base": ("BASE", "ClipTarget"),
    "comfy.utils": ("ProgressBar.update", "ProgressBar.update_absolute", "unet_to_diffusers"),
    "comfy_execution.utils": ("get_executing_context",),
    "folder_paths": (
        "add_model_folder_path",
        "folder_names_and_paths",
        "get_filename_list",
        "get_folder_paths",
        "get_full_path",
        "get_input_directory",
        "get_output_directory",
        "get_temp_directory",
        "get_user_directory",
        "models_dir",
    ),
    "server": ("PromptServer.send_progress_text",),
}
"""Attributes of ComfyUI's modules."""

OPTIONAL: dict[str, str] = {
    "comfy.model_management.is_oom": "0.16.5 and newer; without it the kinds of error are told apart here",
    "comfy.model_patcher.CoreModelPatcher": "0.16.0 and newer; without it there is no Dynamic VRAM to follow",
}
"""Attributes that only newer releases have, and what is done without."""

OBJECTS: dict[str, tuple[str, ...]] = {
    "MODEL": (
        "add_object_patch",
        "add_patches",
        "add_weight_wrapper",
        "add_wrapper_with_key",
        "clone",
        "load_device",
        "model.diffusion_model",
        "model.latent_format.latent_channels",
        "model.latent_format.scale_factor",
        "model.model_config.unet_config",
        "model.get_dtype",
        "model.model_type",
        "model_options",
        "model_size",
        "object_patches",
        "offload_device",
        "partially_unload",
        "remove_wrappers_with_key",
        "set_model_unet_function_wrapper",
    ),
    "CLIP": ("clone", "cond_stage_model", "encode_from_tokens_scheduled", "tokenize"),
    "VAE": (
        "decode",
        "decode_tiled",
        "device",
        "downscale_ratio",
        "encode",
        "encode_tiled",
        "first_stage_model",
        "latent_channels",
        "memory_used_decode",
        "memory_used_encode",
        "patcher.add_patches",
        "patcher.clone",
        "patcher.model_state_dict",
        "process_input",
        "process_output",
        "spacial_compression_decode",
        "spacial_compression_encode",
        "upscale_ratio",
        "vae_dtype",
        "vae_encode_crop_pixels",
    ),
    "AutoencoderKL": (
        "bn",
        "decode",
        "decoder.conv_in",
        "decoder.conv_out",
        "decoder.mid.attn_1.optimized_attention",
        "decoder.norm_out",
        "decoder.tanh_out",
        "decoder.up.0.attn",
        "decoder.up.0.block.0.conv1",
        "decoder.up.1.upsample",
        "encoder.conv_in",
        "encoder.conv_out",
        "encoder.down.0.attn",
        "encoder.down.0.block.0.norm1",
        "encoder.down.0.downsample",
        "encoder.mid.attn_1.k",
        "encoder.mid.attn_1.norm",
        "encoder.mid.attn_1.optimized_attention",
        "encoder.mid.attn_1.proj_out",
        "encoder.mid.attn_1.q",
        "encoder.mid.attn_1.v",
        "encoder.mid.block_1.conv2",
        "encoder.mid.block_1.in_channels",
        "encoder.mid.block_1.norm2",
        "encoder.mid.block_1.out_channels",
        "encoder.mid.block_1.use_conv_shortcut",
        "encoder.mid.block_2",
        "encoder.norm_out",
        "post_quant_conv",
        "quant_conv",
    ),
}
"""Attributes of the objects behind ComfyUI's sockets, and of Stable Diffusion's VAE, which the exact tiles walk."""


def lacks(owner: Any, path: str) -> bool:
    """Whether an object has no such attribute; a number in the dotted path is an index."""
    for name in path.split("."):
        try:
            owner = owner[int(name)] if name.isdecimal() else getattr(owner, name)
        except (AttributeError, IndexError):
            return True
    return False


def missing() -> list[str]:
    """What the running ComfyUI lacks of `MODULES`."""
    gone = []
    for name, paths in MODULES.items():
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError:
            gone.append(name)
        else:
            gone += [f"{name}.{path}" for path in paths if lacks(module, path)]
    return gone
