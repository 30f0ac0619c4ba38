"""What a model computes with on a CPU, where ComfyUI's defaults are made for GPUs that are short of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.ldm.modules.attention
import comfy.ldm.modules.diffusionmodules.model as modules
import comfy.patcher_extension
import torch

from ...qusr_train.model.winograd import fast_convolutions
from .comfy_types import MODEL, VAE

_KEY = "qusr_cpu"


def on_cpu(device: torch.device) -> bool:
    return device.type == "cpu"


def use_cpu_kernels(patcher: MODEL) -> None:
    """Patch a cloned MODEL in place, for every sampler: torch's attention instead of the sub-quadratic one, which takes
    2.4 times as long on a CPU, and fast convolutions. Nothing is done where a GPU computes."""
    if not on_cpu(patcher.load_device):
        return
    options = patcher.model_options.setdefault("transformer_options", {})
    options.setdefault("optimized_attention_override", _torch_attention)
    kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
    patcher.remove_wrappers_with_key(kind, _KEY)
    patcher.add_wrapper_with_key(kind, _KEY, _fast)


def _torch_attention(_chosen: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    return comfy.ldm.modules.attention.attention_pytorch(*arguments, **keywords)


def _fast(executor: Any, *arguments: Any, **keywords: Any) -> Any:
    with fast_convolutions():
        return executor(*arguments, **keywords)


@contextmanager
def vae_kernels(vae: VAE) -> Iterator[None]:
    """The same for Stable Diffusion's VAE, while the block runs; other nodes find it as it was."""
    if not on_cpu(vae.device):
        yield
        return
    model = vae.first_stage_model
    blocks = (model.encoder.mid.attn_1, model.decoder.mid.attn_1)
    before = [block.optimized_attention for block in blocks]
    for block in blocks:
        block.optimized_attention = modules.pytorch_attention
    try:
        with fast_convolutions():
            yield
    finally:
        for block, attention in zip(blocks, before, strict=True):
            block.optimized_attention = attention
