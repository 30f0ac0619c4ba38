"""The photo itself as a guide beside the prompt (CODSR)."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from .native.comfy_types import CONDITIONING, MODEL
from .native.host import check_image
from .native.photo_guide import guide_of, guided_conditioning
from .native.schema import found_by
from .native.sockets import CATEGORY


def guide_by_photo(model: MODEL, conditioning: CONDITIONING, rgb: Tensor) -> CONDITIONING:
    """The CONDITIONING with what the MODEL wants to know of the photos (B, 3, H, W); as it is for most models."""
    guide = guide_of(model)
    return conditioning if guide is None else guided_conditioning(guide, conditioning, rgb)


class QUSRPhotoGuide(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="QUSRPhotoGuide",
            display_name="QUSR Photo Guide (CODSR)",
            category=CATEGORY,
            **found_by("codsr, super resolution, photo guide, control"),
            description=(
                "Lets a CODSR model look at the photo itself, beside the prompt: the VAE loses detail that the photo "
                "still has. Other models need no such guide and the conditioning passes through unchanged."
            ),
            inputs=[
                io.Model.Input("model", tooltip="From QUSR Loader with a CODSR file."),
                io.Conditioning.Input("conditioning", tooltip="The encoded prompt, from QUSR Encode Prompt."),
                io.Image.Input(
                    "image", tooltip="The enlarged image (QUSR Enlarge), the same that goes into VAE Encode."
                ),
            ],
            outputs=[io.Conditioning.Output(display_name="guided", tooltip="For the denoiser or a sampler.")],
        )

    @classmethod
    def execute(cls, model: MODEL, conditioning: CONDITIONING, image: Tensor) -> io.NodeOutput:
        return io.NodeOutput(guide_by_photo(model, conditioning, check_image(image).rgb))
