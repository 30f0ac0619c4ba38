"""Enlarging before restoration: QUSR restores an image that already has its final size."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..qusr_train.images.check import enlarge
from ..qusr_train.images.size import SIZE_RULES, target_size
from .native.host import check_image, image_out
from .native.schema import found_by
from .native.sockets import CATEGORY

TRAINED = "The models are trained for 4; 1 restores without enlarging."
LONGEST_SIDE, MEGAPIXELS = 2048, 4.0


def enlarge_to(rgb: Tensor, rule: str, value: float) -> Tensor:
    """(B, C, h, w) in [0, 1] -> bicubic enlargement (see `target_size`), clamped to [0, 1]."""
    return enlarge(rgb, *target_size(*rgb.shape[-2:], rule, value)).clamp(0, 1)


def size_inputs(factor: io.Input) -> list[io.Input]:
    """The inputs about the size of the result; `factor` is the node's own one for the rule of that name."""
    choice = io.Combo.Input(
        "size",
        options=list(SIZE_RULES),
        default="factor",
        optional=True,
        tooltip="What says how large the result is: a factor, its longest side, or its megapixels. The shape is kept.",
    )
    side = io.Int.Input(
        "longest_side",
        default=LONGEST_SIDE,
        min=8,
        max=16384,
        step=8,
        optional=True,
        tooltip="Pixels of the result's longest side, for size: longest side.",
    )
    area = io.Float.Input(
        "megapixels",
        default=MEGAPIXELS,
        min=0.01,
        max=128.0,
        step=0.01,
        optional=True,
        tooltip="Millions of pixels of the result, for size: megapixels.",
    )
    return [choice, *factor, side, area]


def size_value(size: str, factor: float, longest_side: int, megapixels: float) -> float:
    """The number that belongs to the rule."""
    return {"factor": factor, "longest side": float(longest_side), "megapixels": megapixels}.get(size, factor)


class QUSREnlarge(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="QUSREnlarge",
            display_name="QUSR Enlarge",
            category=CATEGORY,
            **found_by("upscale image, resize, scale image, bicubic, enlarge image"),
            description=(
                "Bicubic enlargement exactly as QUSR was trained with, by any factor or to a given size. Feed the "
                "result to VAE Encode, QUSR Uncertainty and QUSR Color Fix."
            ),
            inputs=[
                io.Image.Input("image", tooltip="The small photo. An alpha channel is enlarged and kept."),
                io.Float.Input(
                    "scale",
                    default=4.0,
                    min=0.25,
                    max=16.0,
                    step=0.25,
                    tooltip=f"Factor of both sides, for size: factor. {TRAINED}",
                ),
                *size_inputs([]),
            ],
            outputs=[io.Image.Output(display_name="enlarged")],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        scale: float,
        size: str = "factor",
        longest_side: int = LONGEST_SIDE,
        megapixels: float = MEGAPIXELS,
    ) -> io.NodeOutput:
        checked = check_image(image)
        value = size_value(size, scale, longest_side, megapixels)
        alpha = None if checked.alpha is None else enlarge_to(checked.alpha, size, value)
        return io.NodeOutput(image_out(enlarge_to(checked.rgb, size, value), alpha))
