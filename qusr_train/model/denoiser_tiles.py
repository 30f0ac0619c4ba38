"""Whether Stable Diffusion's UNet takes a latent whole, or in tiles of which size."""

from __future__ import annotations

from ..images.tiling import grid

OVERLAP = 32
"""Latent pixels, as in the reference."""
SMALLEST, STEP = 64, 8
"""The side SD 2.1-base was trained with, and what all of its levels divide."""
SAVING = 0.25
"""Tiles are worth their seams from this share of the work on."""
BYTES = 10_486
"""Memory for each latent pixel and byte of the data type (ComfyUI reckons the same: 0.01 MiB)."""


def work(height: int, width: int) -> float:
    """GFLOP of SD 2.1's UNet on a latent: 804 at 64 x 64, of which 120 are self-attention and grow with the square."""
    share = height * width / 64**2
    return 684 * share + 120 * share**2


def choose_tile(height: int, width: int, room: float | None, item_size: int, overlap: int = OVERLAP) -> int:
    """Side of the denoiser's tiles that takes least work, in latent pixels; 0 is the whole latent.

    The whole when there is room for it, unless tiles save a quarter of the work: attention grows with the square of
    the pixels, so that from about 1,700 x 1,700 image pixels on large tiles are faster.

    Args:
        height, width: of the latent.
        room: bytes for the UNet's feature maps; None if it is not known.
        item_size: bytes of a value, 4 for float32.
        overlap: of neighbouring tiles.
    """

    def fits(tile: int) -> bool:
        return room is None or min(tile, height) * min(tile, width) * BYTES * item_size <= room

    def cost(tile: int) -> float:
        return sum(work(one.y1 - one.y0, one.x1 - one.x0) for one in grid(height, width, tile, overlap))

    longest = max(height, width)
    sides = [side for side in range(SMALLEST, longest, STEP) if fits(side)]
    best = min(sides, key=cost, default=SMALLEST)
    whole = work(height, width)
    if best >= longest or (fits(longest) and cost(best) > (1 - SAVING) * whole):
        return 0
    return best
