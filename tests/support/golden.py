"""The golden model of tests/golden as native ComfyUI objects: MODEL, CLIP and VAE.

Only for processes that have ComfyUI on their path (tests/nodes).
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def run(name: str) -> SimpleNamespace:
    """Tensors of a reference run, and its metadata under `about`."""
    path = GOLDEN / "runs" / f"{name}.safetensors"
    with safe_open(path, "pt") as file:
        about = file.metadata() or {}
    return SimpleNamespace(about=about, **load_file(path))


def picture(name: str) -> Tensor:
    """A PNG of the runs as IMAGE, (1, H, W, 3) in [0, 1]."""
    array = np.asarray(Image.open(GOLDEN / "runs" / f"{name}.png").convert("RGB"), dtype=np.float32)
    return torch.from_numpy(array / 255.0)[None]


def _patcher(model: Any) -> Any:
    import comfy.model_management
    import comfy.model_patcher

    return comfy.model_patcher.ModelPatcher(
        model,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


def build_unet(kind: str = "SD20", v_prediction: bool = False, **changes: Any) -> Any:
    """A MODEL of SD 2.1's block structure with 32 channels, random weights unless loaded afterwards.

    Args:
        kind: class of comfy.supported_models.
        v_prediction: as in SD 2.1-768.
        changes: of the UNet's configuration.
    """
    import comfy.model_base
    import comfy.supported_models

    shape = {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [2, 2, 2, 2],
        "channel_mult": [1, 1, 2, 2], "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], "context_dim": 32,
        "use_linear_in_transformer": True, "use_spatial_transformer": True, "legacy": False, "adm_in_channels": None,
        "use_temporal_attention": False, "dtype": torch.float32, **changes,
    }  # fmt: skip
    config = getattr(comfy.supported_models, kind)(shape)
    config.unet_config.update(num_heads=-1, num_head_channels=32)
    types = comfy.model_base.ModelType
    model = comfy.model_base.BaseModel(config, types.V_PREDICTION if v_prediction else types.EPS)
    return _patcher(model.eval())


def golden_unet() -> Any:
    """The golden UNet as MODEL."""
    import comfy.utils

    model = build_unet()
    weights = load_file(GOLDEN / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    names = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    native = {names[key]: value.float() for key, value in weights.items()}
    model.model.diffusion_model.load_state_dict(native)
    return model


def golden_vae() -> Any:
    """The golden VAE as VAE: 32 channels on 4 levels."""
    import comfy.diffusers_convert
    import comfy.sd

    weights = load_file(GOLDEN / "model" / "vae" / "diffusion_pytorch_model.safetensors")
    native = comfy.diffusers_convert.convert_vae_state_dict({key: value.float() for key, value in weights.items()})
    shape = {
        "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 32,
        "ch_mult": [1, 1, 1, 1], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
    }  # fmt: skip
    return comfy.sd.VAE(sd=native, dtype=torch.float32, config={"params": {"ddconfig": shape, "embed_dim": 4}})


def golden_clip() -> Any:
    """The golden text encoder as CLIP, with the embedding rows of the golden prompts."""
    import comfy.sd
    import comfy.sd1_clip
    import comfy.supported_models_base

    folder = GOLDEN / "model" / "text_encoder"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    state = {key: value for key, value in load_file(folder / "used_tokens.safetensors").items()}
    embedding = torch.zeros(config["vocab_size"], config["hidden_size"])
    embedding[state.pop("token_ids").long()] = state.pop("token_rows").float()
    state = {key: value.float() for key, value in state.items()}
    state["text_model.embeddings.token_embedding.weight"] = embedding
    state["text_projection.weight"] = torch.eye(config["hidden_size"])

    class Tokenizer(comfy.sd1_clip.SD1Tokenizer):
        def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
            def tokenizer(**keywords: Any) -> Any:
                return comfy.sd1_clip.SDTokenizer(pad_with_end=False, embedding_size=32, **keywords)

            super().__init__(embedding_directory, tokenizer_data or {}, clip_name="l", tokenizer=tokenizer)

    class Text(comfy.sd1_clip.SDClipModel):
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
            tokens = {"start": 49406, "end": 49407, "pad": 0}
            super().__init__(
                device=device, dtype=dtype, textmodel_json_config=config, special_tokens=tokens,
                model_options=model_options or {},
            )  # fmt: skip

    class TextModel(comfy.sd1_clip.SD1ClipModel):
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
            super().__init__(
                device=device, dtype=dtype, model_options=model_options or {}, clip_name="l", clip_model=Text
            )

    target = comfy.supported_models_base.ClipTarget(Tokenizer, TextModel)
    clip = comfy.sd.CLIP(target, model_options={"dtype": torch.float32})
    clip.cond_stage_model.clip_l.transformer.load_state_dict(state)
    return clip
