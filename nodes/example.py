"""The bundled example photo, so that every example workflow runs as it is."""

from __future__ import annotations

from pathlib import Path

from comfy_api.latest import io

from ..qusr_train.images.read import read_image
from .native.host import image_out
from .native.schema import found_by
from .native.sockets import CATEGORY

FOLDER = Path(__file__).parent / "example_photo"


class QUSRExamplePhoto(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="QUSRExamplePhoto",
            display_name="QUSR Example Photo",
            category=CATEGORY,
            **found_by("test image, sample image, demo photo"),
            description=(
                "A small, degraded photo to try QUSR with, and its original. Replace this node by Load Image for your "
                "own photo. Photo: 'Perched Osprey', Budgie Desktop Developers, CC0."
            ),
            inputs=[],
            outputs=[
                io.Image.Output(display_name="image", tooltip="192 x 192 pixels: blurred and JPEG-compressed."),
                io.Image.Output(
                    display_name="original", tooltip="768 x 768 pixels: what the small photo was made from."
                ),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        small, original = (read_image(FOLDER / name).rgb for name in ("osprey-small.png", "osprey-original.png"))
        return io.NodeOutput(image_out(small), image_out(original))
