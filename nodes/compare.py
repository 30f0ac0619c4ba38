"""Before and after."""

from __future__ import annotations

import torch
from comfy_api.latest import io
from torch import Tensor

from .native.host import check_image, image_out, match_batch, match_size
from .native.schema import found_by
from .native.sockets import CATEGORY
from .native.view_files import forget_old_runs, save_picture


class QUSRCompare(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="QUSRCompare",
            display_name="QUSR Compare",
            category=CATEGORY,
            **found_by("compare images, image comparer, before after, slider, difference"),
            description="Before and after: slider, side by side, amplified difference, flicker.",
            inputs=[
                io.Image.Input("before", tooltip="The photo as it was; enlarged to the size of after."),
                io.Image.Input("after", tooltip="The restored photo."),
            ],
            outputs=[io.Image.Output(display_name="side_by_side")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, before: Tensor, after: Tensor) -> io.NodeOutput:
        right = check_image(after, "after").rgb
        original = match_batch(check_image(before, "before").rgb, right.shape[0], "before", "after")
        left = match_size(original, *right.shape[-2:])
        gap = torch.ones(*right.shape[:-1], max(1, right.shape[-1] // 128))
        pair = image_out(torch.cat([left, gap.to(right), right], dim=-1))
        pairs = [
            {
                "before": save_picture(a),
                "after": save_picture(b),
                "original_size": [original.shape[-1], original.shape[-2]],
            }
            for a, b in zip(left, right, strict=True)
        ]
        forget_old_runs(pairs)
        return io.NodeOutput(pair, ui={"qusr_compare": pairs})
