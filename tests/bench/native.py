"""ComfyUI and the extension in a benchmark's process, with models of full SD 2.1 shapes."""

from __future__ import annotations

from typing import Any

import torch

from tests.bench.shapes import parameter_shapes, skeleton, weights
from tests.support import pack


def import_pack(cpu: bool, reserve_vram: float | None = None) -> Any:
    """The extension inside ComfyUI, in this process.

    Args:
        cpu: whether ComfyUI computes on the CPU.
        reserve_vram: ComfyUI's --reserve-vram in GB.
    """
    pack.import_comfyui(cpu)
    import comfy.cli_args

    comfy.cli_args.args.reserve_vram = reserve_vram
    return pack.import_pack()


def native_models(device: torch.device, dtype: torch.dtype) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of ComfyUI with the weights of `random_module`."""
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


def golden_models() -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of the golden model (tests/golden)."""
    from tests.support import golden

    return golden.golden_unet(), golden.golden_clip(), golden.golden_vae()
