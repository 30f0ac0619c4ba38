"""Colour fix node."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..qusr_train.images.color import COLOR_FIXES, fix_color
from .native.host import check_image, image_out, match_batch, match_size
from .native.schema import found_by
from .native.sockets import CATEGORY


class QUSRColorFix(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="QUSRColorFix",
            display_name="QUSR Color Fix",
            category=CATEGORY,
            **found_by("color match, color transfer, color correction, wavelet, adain, colour"),
            description="Gives the restored image the colours of the photo it came from and keeps its detail.",
            inputs=[
                io.Image.Input("image", tooltip="The restored image. Its alpha, if any, is kept."),
                io.Image.Input("reference", tooltip="The photo with the right colours; it is resized if need be."),
                io.Combo.Input(
                    "method",
                    options=list(COLOR_FIXES),
                    default="wavelet",
                    tooltip="wavelet: low frequencies of the reference. adain: its mean and contrast. none: unchanged.",
                ),
            ],
            outputs=[io.Image.Output(display_name="fixed")],
        )

    @classmethod
    def execute(cls, image: Tensor, reference: Tensor, method: str) -> io.NodeOutput:
        checked = check_image(image)
        target = match_size(check_image(reference, "reference").rgb, *checked.rgb.shape[-2:])
        target = match_batch(target, checked.rgb.shape[0], "reference", "image")
        return io.NodeOutput(image_out(fix_color(checked.rgb, target, method), checked.alpha))
