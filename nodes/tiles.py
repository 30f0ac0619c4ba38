"""A large photo described tile by tile: each part is restored with its own words."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from comfy_api.latest import io
from torch import Tensor

from ..qusr_train.images.tiling import Tile, grid
from .native.host import check_image, image_out
from .native.schema import advanced, found_by
from .native.sockets import CATEGORY, TilesSocket

Area = tuple[str, float, float, float, float]
"""ComfyUI's area of a CONDITIONING as shares of the image: "percentage", height, width, y, x."""


@dataclass(frozen=True)
class PhotoTiles:
    """Where the tiles of a batch of photos lie."""

    windows: tuple[Tile, ...]
    height: int
    width: int
    images: int

    @property
    def areas(self) -> list[Area]:
        """The windows as shares, for a latent of any size.

        A hundredth of a pixel more, since ComfyUI rounds places and sizes one by one (halves to the
        even number): a line of the latent could else be left out.
        """
        more = 0.01
        return [
            (
                "percentage",
                (one.y1 - one.y0 + more) / self.height,
                (one.x1 - one.x0 + more) / self.width,
                one.y0 / self.height,
                one.x0 / self.width,
            )
            for one in self.windows
        ]

    def cut(self, photos: Tensor) -> Tensor:
        """(B, C, H, W) -> (B * tiles, C, h, w): all tiles of the first photo, then of the next.

        Raises:
            ValueError: photos of another size.
        """
        height, width = photos.shape[-2:]
        if (height, width) != (self.height, self.width):
            raise ValueError(
                f"tiles: were cut from a photo of {self.width} x {self.height}, but image is {width} x {height}; "
                "connect the same photo to QUSR Photo Tiles"
            )
        return torch.stack([one.of(photos) for one in self.windows], dim=1).flatten(0, 1)


def whole_photo(photos: Tensor) -> PhotoTiles:
    """(B, C, H, W) as one tile each."""
    batch, _, height, width = photos.shape
    return PhotoTiles((Tile(0, height, 0, width),), height, width, batch)


class QUSRPhotoTiles(io.ComfyNode):
    @classmethod
    @advanced("overlap")
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="QUSRPhotoTiles",
            display_name="QUSR Photo Tiles",
            category=CATEGORY,
            **found_by("split image, tile, image grid, tiled upscale, ultimate sd upscale"),
            description=(
                "Cuts a photo into tiles, so that each part gets its own quality prompt. Connect images to a prompt "
                "node, and tiles to QUSR Encode Prompt or QUSR Upscale."
            ),
            inputs=[
                io.Image.Input("image", tooltip="The small photo, before enlarging. One or a batch."),
                io.Int.Input(
                    "tile",
                    default=256,
                    min=32,
                    max=4096,
                    step=8,
                    tooltip="Side of a tile in pixels of the photo.",
                ),
                io.Int.Input(
                    "overlap",
                    default=32,
                    min=0,
                    max=1024,
                    step=8,
                    tooltip="Overlap of neighbouring tiles in pixels of the photo, at most half a tile.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The tiles as a batch, for a prompt node."),
                TilesSocket.Output(display_name="tiles", tooltip="Where the tiles lie."),
            ],
        )

    @classmethod
    def execute(cls, image: Tensor, tile: int, overlap: int) -> io.NodeOutput:
        photos = check_image(image).rgb
        batch, _, height, width = photos.shape
        tiles = PhotoTiles(tuple(grid(height, width, tile, min(overlap, tile // 2))), height, width, batch)
        return io.NodeOutput(image_out(tiles.cut(photos)), tiles)
