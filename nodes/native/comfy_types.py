"""ComfyUI's objects by their socket's name, as far as this extension uses them: ComfyUI ships no types of its own.

`internals.py` lists the same attributes for a test that looks each of them up in the ComfyUI it runs on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, TypedDict

import torch
from torch import Tensor, nn

ModelOptions: TypeAlias = dict[str, Any]
"""A ModelPatcher's `model_options`."""
CONDITIONING: TypeAlias = list[list[Any]]
"""Entries [encoded prompt (B, N, C), its options]."""
Patches: TypeAlias = dict[str, Any]
"""By weight, in one of the forms that ComfyUI knows: a LoRA, ("set", (weight,)) ..."""
Executor: TypeAlias = Callable[..., Any]
"""What a wrapper calls to go on: the next wrapper, or what is wrapped."""
ShownFile: TypeAlias = dict[str, Any]
"""A file for the browser: its `/view` address, and what the widget wants to know of it."""


class Patcher(Protocol):
    """comfy.model_patcher.ModelPatcher: what ComfyUI moves to the device and away."""

    model: Any
    load_device: torch.device
    offload_device: torch.device

    def model_size(self) -> int: ...
    def clone(self) -> MODEL: ...
    def add_patches(self, patches: Patches, strength_patch: float = 1.0) -> object: ...
    def model_state_dict(self) -> dict[str, Tensor]: ...


class LatentFormat(Protocol):
    latent_channels: int
    scale_factor: float


class ModelConfig(Protocol):
    unet_config: dict[str, Any]


class BaseModel(Protocol):
    """comfy.model_base.BaseModel"""

    diffusion_model: nn.Module
    latent_format: LatentFormat
    model_config: ModelConfig
    model_type: object

    def get_dtype(self) -> torch.dtype: ...


class MODEL(Patcher, Protocol):
    """A ModelPatcher around a denoiser."""

    model: BaseModel
    model_options: ModelOptions
    object_patches: dict[str, object]

    def add_object_patch(self, name: str, obj: object) -> None: ...
    def add_weight_wrapper(self, name: str, function: Callable[[Tensor], Tensor]) -> None: ...
    def add_wrapper_with_key(self, wrapper_type: str, key: str, wrapper: Callable[..., Any]) -> None: ...
    def remove_wrappers_with_key(self, wrapper_type: str, key: str) -> None: ...
    def set_model_unet_function_wrapper(self, unet_wrapper_function: Callable[..., Tensor]) -> None: ...
    def set_attachments(self, key: str, attachment: object) -> None: ...
    def get_attachment(self, key: str) -> Any: ...


class CLIP(Protocol):
    """comfy.sd.CLIP"""

    def clone(self) -> CLIP: ...
    def tokenize(self, text: str, *, disable_weights: bool = False) -> dict[str, list[list[tuple[Any, ...]]]]: ...
    def encode_from_tokens_scheduled(self, tokens: dict[str, list[list[tuple[Any, ...]]]]) -> CONDITIONING: ...


class VAE(Protocol):
    """comfy.sd.VAE"""

    first_stage_model: Any
    """An AutoencoderKL, or a model of another family."""
    patcher: Patcher
    device: torch.device
    vae_dtype: torch.dtype
    latent_channels: int

    def encode(self, pixel_samples: Tensor) -> Tensor: ...
    def encode_tiled(self, pixel_samples: Tensor, tile_x: int, tile_y: int, overlap: int) -> Tensor: ...
    def decode(self, samples_in: Tensor) -> Tensor: ...
    def decode_tiled(self, samples: Tensor, tile_x: int, tile_y: int, overlap: int) -> Tensor: ...
    def process_input(self, image: Tensor) -> Tensor: ...
    def process_output(self, image: Tensor) -> Tensor: ...
    def vae_encode_crop_pixels(self, pixels: Tensor) -> Tensor: ...
    def spacial_compression_encode(self) -> int: ...
    def spacial_compression_decode(self) -> int: ...
    def memory_used_encode(self, shape: tuple[int, ...], dtype: torch.dtype) -> float: ...
    def memory_used_decode(self, shape: tuple[int, ...], dtype: torch.dtype) -> float: ...


class LATENT(TypedDict, total=False):
    samples: Tensor
    """(B, C, h, w)."""
    noise_mask: Tensor
    """(B, 1, H, W) or (B, H, W)."""
    batch_index: list[int]
    """Numbers of the images in the batch they were taken from."""
    qusr_size: tuple[int, int]
    """Height and width of the image before padding, see QUSR VAE Encode."""


class NOISE(Protocol):
    """What RandomNoise and QUSR Adaptive Noise give."""

    @property
    def seed(self) -> int: ...

    def generate_noise(self, input_latent: LATENT) -> Tensor: ...
