"""Enlarging before restoration: QUSR restores an image that already has its final size."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..qusr_train.images.check import enlarge
from .native.host import check_image, image_out
from .native.schema import found_by
from .native.sockets import CATEGORY


def enlarge_by(rgb: Tensor, scale: float) -> Tensor:
    """(B, C, h, w) in [0, 1] -> bicubic enlargement, at least one pixel a side, clamped to [0, 1]."""
    height, width = (max(1, round(side * scale)) for side in rgb.shape[-2:])
    return enlarge(rgb, height, width).clamp(0, 1)


class QUSREnlarge(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="QUSREnlarge",
            display_name="QUSR Enlarge",
            category=CATEGORY,
            **found_by("upscale image, resize, scale image, bicubic, enlarge image"),
            description=(
                "Bicubic enlargement exactly as QUSR was trained with. Feed the result to VAE Encode, "
                "QUSR Uncertainty and QUSR Color Fix."
            ),
            inputs=[
                io.Image.Input("image", tooltip="The small photo. An alpha channel is enlarged and kept."),
                io.Float.Input(
                    "scale", default=4.0, min=0.25, max=16.0, step=0.25, tooltip="QUSR models are trained for 4."
                ),
            ],
            outputs=[io.Image.Output(display_name="enlarged")],
        )

    @classmethod
    def execute(cls, image: Tensor, scale: float) -> io.NodeOutput:
        checked = check_image(image)
        alpha = None if checked.alpha is None else enlarge_by(checked.alpha, scale)
        return io.NodeOutput(image_out(enlarge_by(checked.rgb, scale), alpha))
