"""A local Qwen-VL under ComfyUI's memory management: it makes room for others, and others for it."""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Iterator
from dataclasses import dataclass

import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import torch

from ...qusr_train.captions.captioner import CaptionError
from ...qusr_train.captions.qwen import QwenFolder, QwenModel, load_qwen
from .comfy_types import Patcher
from .oom import is_oom

log = logging.getLogger(__name__)

WORKING_MEMORY = 1.5 * 1024**3
"""Bytes asked for beside the weights: at 7B, four pictures of 1280 visual tokens keep 0.3 GiB of keys and values."""


class ManagedQwen(torch.nn.Module):
    """ComfyUI writes attributes such as `device` onto what it manages; a transformers model refuses that one."""

    def __init__(self, qwen: QwenModel) -> None:
        super().__init__()
        self.inner: torch.nn.Module | None = qwen.model
        self.processor = qwen.processor


class WholePatcher(comfy.model_patcher.ModelPatcher):
    """All on the device or all off it: layers of transformers cannot fetch their weights while they run."""

    def partially_unload(self, *_: object, **__: object) -> int:
        return 0


@dataclass(frozen=True)
class _Kept:
    folder: QwenFolder
    patcher: Patcher


_kept: list[_Kept] = []
"""The loaded model, at most one."""


def manage(qwen: QwenModel, movable: bool, device: torch.device, offload: torch.device) -> Patcher:
    """A patcher around a model.

    Args:
        qwen: on `device` if it cannot be moved, else anywhere.
        movable: False for 4 and 8 bit weights: when ComfyUI wants their room they are dropped, not moved.
        device, offload: where it runs, and where it waits.
    """
    held = ManagedQwen(qwen)
    patcher = WholePatcher(held, load_device=device, offload_device=offload if movable else device)
    if not movable:
        held.model_loaded_weight_memory = patcher.model_size()  # it is there already: nothing to make room for

        def drop(*_: object) -> None:
            held.inner = None

        patcher.add_callback(comfy.patcher_extension.CallbacksMP.ON_DETACH, drop)
    return patcher


def _load(folder: QwenFolder) -> Patcher:
    management = comfy.model_management
    device, offload = management.get_torch_device(), management.unet_offload_device()
    movable = not folder.is_quantized
    if not movable:
        shrink = {"8 bit": 2, "4 bit": 4}.get(folder.quantization, 1)
        weights = sum(file.stat().st_size for file in folder.path.glob("*.safetensors"))
        management.free_memory(1.2 * weights / shrink + WORKING_MEMORY, device)
    # Weights made in inference mode could not be changed outside of it, and transformers loads in several threads.
    with torch.inference_mode(False), torch.no_grad():
        qwen = load_qwen(folder, offload if movable else device, target=device)
    return manage(qwen, movable, device, offload)


@contextlib.contextmanager
def open_qwen(folder: QwenFolder) -> Iterator[QwenModel]:
    """A model on its device, loaded if it is not there; it stays until ComfyUI needs the room, or `forget_qwen`.

    Raises:
        CaptionError: cannot be loaded.
    """
    management = comfy.model_management
    if not _kept or _kept[0].folder != folder or _kept[0].patcher.model.inner is None:
        forget_qwen()
        try:
            _kept.append(_Kept(folder, _load(folder)))
        except Exception as error:
            if is_oom(error):
                raise _too_large(folder) from error
            raise
    patcher = _kept[0].patcher
    try:
        management.load_models_gpu([patcher], memory_required=WORKING_MEMORY, force_full_load=True)
    except Exception as error:
        if is_oom(error):
            raise _too_large(folder) from error
        raise
    yield QwenModel(patcher.model.inner, patcher.model.processor)


def forget_qwen() -> None:
    """Give back the model's memory, on the device and off it."""
    if not _kept:
        return
    patcher = _kept.pop().patcher
    loaded = comfy.model_management.current_loaded_models
    loaded[:] = [entry for entry in loaded if entry.model is not patcher]
    patcher.model.inner = None
    del patcher
    gc.collect()
    comfy.model_management.soft_empty_cache()


def _too_large(folder: QwenFolder) -> CaptionError:
    return CaptionError(
        f"model: {folder.path.name} does not fit into the device's memory; choose a smaller model, an AWQ one, or "
        "quantization 4 bit"
    )
