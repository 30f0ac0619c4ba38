"""CODSR's look at the photo itself, on native objects: scale and shift for the UNet's first features.

They are worked out once for each photo and travel in the CONDITIONING beside the prompt, as something of the latent's
shape. So ComfyUI cuts them with the areas of a prompt, and the denoiser with its tiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.conds
import comfy.model_management
import comfy.patcher_extension
import torch
from torch import Tensor

from ...qusr_train.model.modulation import FOLD, FeatureModulation, modulate
from .comfy_types import CONDITIONING, MODEL, Executor, ModelOptions, Patcher
from .host import checkpoint_interrupt, managed

_KEY = "qusr_photo_guide"  # of the attachment, the wrapper, and the entry of a CONDITIONING's model_conds


@dataclass(frozen=True)
class PhotoGuide:
    """What a CODSR MODEL carries."""

    patcher: Patcher
    """Around a `FeatureModulation`."""
    gain: float
    """Factor of scale and shift: the LoRA's strength times sqrt(a / (1 - a))."""


def attach_guide(model: MODEL, modulation: FeatureModulation, gain: float) -> None:
    """Let a cloned MODEL read the photo's scale and shift from its CONDITIONING."""
    model.set_attachments(_KEY, PhotoGuide(managed(modulation), gain))
    model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, _KEY, _guided)


def guide_of(model: MODEL) -> PhotoGuide | None:
    """The guide of a CODSR MODEL, None for every other one."""
    return model.get_attachment(_KEY)


def guided_conditioning(guide: PhotoGuide, conditioning: CONDITIONING, rgb: Tensor) -> CONDITIONING:
    """CONDITIONING with the scale and shift of the photos.

    Args:
        guide: of the MODEL.
        conditioning: the encoded prompts.
        rgb: (B, 3, H, W) in [0, 1], the enlarged photos; padded to whole blocks as `vae.encode` does.
    """
    padded = torch.nn.functional.pad(rgb, (0, -rgb.shape[-1] % FOLD, 0, -rgb.shape[-2] % FOLD), mode="replicate")
    comfy.model_management.load_model_gpu(guide.patcher)
    device = guide.patcher.load_device
    results = []
    for index in range(padded.shape[0]):
        checkpoint_interrupt()
        scale, shift = guide.patcher.model(padded[index : index + 1].to(device) * 2 - 1)
        results.append((torch.cat([scale, shift], dim=1) * guide.gain).to(comfy.model_management.intermediate_device()))
    cond = comfy.conds.CONDNoiseShape(torch.cat(results))  # (B, 2 C, h, w)
    return [
        [text, {**extra, "model_conds": {**extra.get("model_conds", {}), _KEY: cond}}] for text, extra in conditioning
    ]


def _guided(
    executor: Executor,
    x: Tensor,
    timesteps: Tensor | None = None,
    context: Tensor | None = None,
    y: Tensor | None = None,
    control: object = None,
    transformer_options: ModelOptions | None = None,
    **conditions: Any,
) -> Tensor:
    """Wrapper of the UNet: patches the features behind its first convolution."""
    if _KEY not in conditions:
        raise ValueError(
            "conditioning: a CODSR model looks at the photo beside the prompt; put QUSR Photo Guide between QUSR "
            "Encode Prompt and the denoiser"
        )
    scale, shift = conditions.pop(_KEY).to(x).chunk(2, dim=1)

    def patch(features: Tensor, options: ModelOptions) -> Tensor:
        return modulate(features, scale, shift) if tuple(options["block"]) == ("input", 0) else features

    options = dict(transformer_options or {})
    patches = dict(options.get("patches", {}))
    patches["input_block_patch"] = [patch, *patches.get("input_block_patch", [])]
    options["patches"] = patches
    return executor(x, timesteps, context, y, control, options, **conditions)
