"""Nodes that encode and decode images of any size with a native VAE."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from .native.comfy_types import LATENT, VAE
from .native.host import check_image
from .native.oom import WHOLE
from .native.schema import advanced, found_by
from .native.sockets import CATEGORY
from .native.vae import LEAST_TILE, MOST_TILE, decode_latent, encode_latent

AUTOMATIC = "automatic"
MODES = (AUTOMATIC, "exact", "blended")


def tile_inputs(optional: bool = False) -> list[io.Input]:
    """The two inputs about tiles, the same for encoding and decoding."""
    return [
        io.Int.Input(
            "tile",
            default=512,
            min=LEAST_TILE,
            max=MOST_TILE,
            step=64,
            optional=optional,
            tooltip="Side of a tile in image pixels; less takes less GPU memory. For tiles: exact and blended.",
        ),
        io.Combo.Input(
            "tiles",
            options=list(MODES),
            default=AUTOMATIC,
            optional=optional,
            tooltip="automatic: whole, exact tiles when memory is short. exact: as if whole, slower, more host RAM. "
            "blended: ComfyUI's tiles, colours may shift.",
        ),
    ]


def allowed_tile(tile: int) -> bool | str:
    """Takes the place of ComfyUI's own check, which would refuse the 0 ("whole") of workflows from version 0.1."""
    if tile == WHOLE or LEAST_TILE <= tile <= MOST_TILE:
        return True
    return f"tile: expected {LEAST_TILE} to {MOST_TILE} image pixels, but got {tile}"


def chosen_tiles(tile: int, tiles: str) -> tuple[int, str]:
    """Side and mode, as `encode` takes them, of the two inputs."""
    return (WHOLE, "exact") if tiles == AUTOMATIC else (tile, tiles)


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
    def validate_inputs(cls, tile: int = WHOLE) -> bool | str:
        return allowed_tile(tile)

    @classmethod
    def execute(
        cls, image: Tensor, vae: VAE, tile: int, tiles: str, posterior: str = "mean", posterior_seed: int = 0
    ) -> io.NodeOutput:
        rgb = check_image(image).rgb.movedim(1, -1)
        seed = posterior_seed if posterior == "sample" else None
        return io.NodeOutput(encode_latent(vae, rgb, *chosen_tiles(tile, tiles), seed))


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
    def validate_inputs(cls, tile: int = WHOLE) -> bool | str:
        return allowed_tile(tile)

    @classmethod
    def execute(cls, latent: LATENT, vae: VAE, tile: int, tiles: str) -> io.NodeOutput:
        return io.NodeOutput(decode_latent(vae, latent, *chosen_tiles(tile, tiles)))
