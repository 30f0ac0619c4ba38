"""Nodes that encode and decode images of any size with a native VAE."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from .native.comfy_types import LATENT, VAE
from .native.host import check_image
from .native.oom import WHOLE
from .native.schema import advanced, found_by
from .native.sockets import CATEGORY
from .native.vae import MODES, decode_latent, encode_latent


def tile_inputs(optional: bool = False) -> list[io.Input]:
    """The two inputs about tiles, the same for encoding and decoding."""
    return [
        io.Int.Input(
            "tile",
            default=WHOLE,
            min=0,
            max=8192,
            step=64,
            optional=optional,
            tooltip="Side of a tile in image pixels; less takes less GPU memory. 0: whole, tiles when memory is short.",
        ),
        io.Combo.Input(
            "tiles",
            options=list(MODES),
            default="exact",
            optional=optional,
            tooltip="exact: as if whole, slower, needs host memory. blended: ComfyUI's tiles, colours may shift.",
        ),
    ]


class QUSREncode(io.ComfyNode):
    @classmethod
    @advanced("tile", "tiles", "posterior", "posterior_seed")
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="QUSREncode",
            display_name="QUSR VAE Encode",
            category=CATEGORY,
            **found_by("vae encode tiled, tiled vae, super resolution"),
            description=(
                "VAE Encode for any size: pads instead of cropping, takes a batch image by image, and its exact tiles "
                "give the same latent as the whole image."
            ),
            inputs=[
                io.Image.Input("image", tooltip="The enlarged image (QUSR Enlarge)."),
                io.Vae.Input("vae", tooltip="The VAE of the model; QUSR Loader's vae output for OSEDiff."),
                *tile_inputs(),
                io.Combo.Input(
                    "posterior",
                    options=["mean", "sample"],
                    default="mean",
                    optional=True,
                    tooltip="mean: as ComfyUI does. sample: as the authors' code does (Stable Diffusion's VAE only).",
                ),
                io.Int.Input(
                    "posterior_seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    optional=True,
                    tooltip="For posterior: sample.",
                ),
            ],
            outputs=[io.Latent.Output(display_name="latent")],
        )

    @classmethod
    def execute(
        cls, image: Tensor, vae: VAE, tile: int, tiles: str, posterior: str = "mean", posterior_seed: int = 0
    ) -> io.NodeOutput:
        rgb = check_image(image).rgb.movedim(1, -1)
        return io.NodeOutput(encode_latent(vae, rgb, tile, tiles, posterior_seed if posterior == "sample" else None))


class QUSRDecode(io.ComfyNode):
    @classmethod
    @advanced("tile", "tiles")
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="QUSRDecode",
            display_name="QUSR VAE Decode",
            category=CATEGORY,
            **found_by("vae decode tiled, tiled vae, seamless, super resolution"),
            description=(
                "VAE Decode for any size: its exact tiles give the same image as decoding it whole, without "
                "seams. Cuts off what QUSR VAE Encode padded."
            ),
            inputs=[
                io.Latent.Input("latent", tooltip="From QUSR One-Step Denoise or a sampler."),
                io.Vae.Input("vae", tooltip="The VAE of the model, or a light decoder (TAESD) for speed."),
                *tile_inputs(),
            ],
            outputs=[io.Image.Output(display_name="image")],
        )

    @classmethod
    def execute(cls, latent: LATENT, vae: VAE, tile: int, tiles: str) -> io.NodeOutput:
        return io.NodeOutput(decode_latent(vae, latent, tile, tiles))
