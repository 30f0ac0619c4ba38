"""What the nodes share of ComfyUI: image layout, folders, device, progress, interrupt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import folder_paths
import torch
from comfy_execution.utils import get_executing_context
from torch import Tensor

from ...qusr_train.images.check import CheckedImage, check_image, enlarge
from .comfy_types import Patcher

__all__ = [
    "CheckedImage",
    "check_image",
    "checkpoint_interrupt",
    "image_out",
    "managed",
    "match_batch",
    "match_size",
    "model_folders",
    "one_bar",
    "progress",
]


MODEL_FOLDER = "qusr"
MODEL_SUFFIXES = (".safetensors", ".pkl")


def register_model_folder() -> None:
    """Make `models/qusr` a folder kind of ComfyUI; folders named in extra_model_paths.yaml stay in it."""
    folder_paths.add_model_folder_path(MODEL_FOLDER, str(Path(folder_paths.models_dir) / MODEL_FOLDER))
    folder_paths.folder_names_and_paths[MODEL_FOLDER][1].update(MODEL_SUFFIXES)


def image_out(rgb: Tensor, alpha: Tensor | None = None) -> Tensor:
    """(B, 3, H, W) and optional (B, 1, H, W) -> ComfyUI IMAGE (B, H, W, 3 or 4) in [0, 1]."""
    x = rgb if alpha is None else torch.cat([rgb, alpha.to(rgb)], dim=1)
    device = comfy.model_management.intermediate_device()
    return x.float().clamp(0, 1).movedim(1, -1).contiguous().to(device)


def match_size(rgb: Tensor, height: int, width: int) -> Tensor:
    """Resize (B, C, H, W) bicubically unless it has that size already."""
    return rgb if rgb.shape[-2:] == (height, width) else enlarge(rgb, height, width).clamp(0, 1)


def match_batch(tensor: Tensor, batch: int, name: str, other: str) -> Tensor:
    """Repeat a batch of one; refuse any other difference.

    Raises:
        ValueError: names both inputs.
    """
    if tensor.shape[0] == batch:
        return tensor
    if tensor.shape[0] == 1:
        return tensor.expand(batch, *tensor.shape[1:])
    raise ValueError(
        f"{name}: has {tensor.shape[0]} images but {other} has {batch}; "
        "connect the same batch to both, or a single image"
    )


class Stack:
    """Images (1, ...) put one by one into one tensor (count, ...), which so never lies in memory twice."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.filled = 0
        self._whole: Tensor | None = None

    def append(self, image: Tensor) -> None:
        if self._whole is None:
            self._whole = torch.empty((self.count, *image.shape[1:]), dtype=image.dtype, device=image.device)
        self._whole[self.filled] = image[0]
        self.filled += 1

    @property
    def whole(self) -> Tensor:
        """All of them, once the last one is in."""
        if self._whole is None or self.filled != self.count:
            raise ValueError(f"expected {self.count} images, but got {self.filled}")
        return self._whole


def checkpoint_interrupt() -> None:
    """Raise ComfyUI's interrupt exception when the user pressed Cancel."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def model_folders(kind: str) -> list[Path]:
    """Every folder of a kind, those of extra_model_paths.yaml among them; the first is where new files go."""
    if kind == MODEL_FOLDER:
        register_model_folder()
    return [Path(folder) for folder in folder_paths.get_folder_paths(kind)]


def managed(module: torch.nn.Module) -> Patcher:
    """A ModelPatcher around a module, so that ComfyUI moves it to the device and away as it does its own models.

    The class is looked up each time: with Dynamic VRAM ComfyUI replaces it at start, and a ModelPatcher of the classic
    kind would make it push its own models out.
    """
    patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    return patcher(
        module,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


_whole = ContextVar("whole", default=False)
"""Whether a bar for the whole node is open."""


class Progress(comfy.utils.ProgressBar):
    """The bar on the node that is running; with a unit ("tiles") also the words "tiles 3 / 16" on it.

    Inside `one_bar` only the words are shown: the bar belongs to the whole.
    """

    def __init__(self, total: int, unit: str = "") -> None:
        super().__init__(total)
        self._unit = unit if total > 1 else ""
        self._inside = _whole.get()

    def update_absolute(self, value: int, total: int | None = None, preview: object = None) -> None:
        if self._inside:
            self.current = value
            if total is not None:
                self.total = total
        else:
            super().update_absolute(value, total, preview)
        context = get_executing_context()
        if self._unit and context:  # else no graph is running, and there may be no server
            from server import PromptServer

            PromptServer.instance.send_progress_text(f"{self._unit} {self.current} / {self.total}", context.node_id)


@contextmanager
def one_bar(total: int) -> Iterator[Progress]:
    """One bar for a node of several steps, which are nodes elsewhere and would each start the bar anew."""
    bar = Progress(total)
    token = _whole.set(True)
    try:
        yield bar
    finally:
        _whole.reset(token)


def progress(total: int, unit: str = "") -> Progress:
    """The bar on the node that is running; `unit` names what is counted in words."""
    return Progress(total, unit)
