"""Before and after."""

from __future__ import annotations

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from .host import check_image, image_out, match_batch, match_size
from .sockets import CATEGORY


class QUSRCompare(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="QUSRCompare",
            display_name="QUSR Compare",
            category=CATEGORY,
            description="Shows before (left) and after (right) side by side at the size of the result.",
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
        left = match_size(check_image(before, "before").rgb, *right.shape[-2:])
        left = match_batch(left, right.shape[0], "before", "after")
        gap = torch.ones(*right.shape[:-1], max(1, right.shape[-1] // 128))
        pair = image_out(torch.cat([left, gap.to(right), right], dim=-1))
        return io.NodeOutput(pair, ui=ui.PreviewImage(pair, cls=cls))
