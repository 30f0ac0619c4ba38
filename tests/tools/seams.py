"""Make the picture of seams in the help of QUSR One-Step Denoise: python -m tests.tools.seams.

A smooth gradient and text. Left: qusr-nano's result, computed in tiles of 32 latent pixels (128 of the picture). The
other three: what tiles change in the latent of the golden model (Stable Diffusion's structure, random weights) against
the whole, each shown with the same gain: cut tiles, the authors' weights, ours.
"""

from __future__ import annotations

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from qusr_train import restore
from qusr_train.images.tiling import blend_tiles
from tests.support.diffusers_chain import SCALE, TIMESTEP, Chain
from tests.support.golden import run
from tests.support.seam_pictures import PICTURES
from tests.tools.help_pictures import FOLDER, picture

TILE, OVERLAP, SIDE, GAIN = 32, 16, 240, 3.0
NAMES = ("nano, in tiles", "change by cut tiles", "gaussian tiles", "smooth tiles")


def changes(chain: Chain, rgb: Tensor) -> list[Tensor]:
    """Tiles minus whole, (1, 1, h, w) each: cut, gaussian, smooth."""
    embeds = run("qusr_128").prompt_embeds

    def eps(window: Tensor, _: object = None) -> Tensor:
        return chain.unet(window, TIMESTEP, encoder_hidden_states=embeds).sample

    with torch.no_grad():
        z = chain.vae.encode(rgb * 2 - 1).latent_dist.mean * SCALE
        whole = eps(z)
        tiled = [
            blend_tiles(z, eps, TILE, 0),
            blend_tiles(z, eps, TILE, OVERLAP),
            blend_tiles(z, eps, TILE, OVERLAP, blend="smooth"),
        ]
    return [(one - whole).mean(1, keepdim=True) for one in tiled]


def main() -> None:
    """Make it."""
    chain = Chain.load("qusr")
    restore.TILE = TILE
    sheet = Image.new("RGB", (4 * (SIDE + 4) - 4, 2 * (SIDE + 4) + 22), "white")
    draw = ImageDraw.Draw(sheet)
    for row, make in enumerate(PICTURES.values()):
        rgb = make()
        small = F.avg_pool2d(rgb, 4)
        restorer = restore.Restorer()
        shown = [restorer(small, prompt="").image]
        found = changes(chain, rgb)
        gain = GAIN * found[0].std()
        shown += [(0.5 + one / (2 * gain)).clamp(0, 1).expand(-1, 3, -1, -1) for one in found]
        for column, one in enumerate(shown):
            part = picture(one).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            sheet.paste(part, (column * (SIDE + 4), row * (SIDE + 4)))
    for column, name in enumerate(NAMES):
        draw.text((column * (SIDE + 4) + 4, sheet.height - 24), name, "black", font=ImageFont.load_default(16))
    sheet.save(FOLDER / "seams.webp", quality=80)


if __name__ == "__main__":
    main()
