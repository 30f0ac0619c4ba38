"""Make the pictures and figures of the README and of the dial's help: python -m tests.tools.readme_pictures.

All of it is true output of the bundled model, so run this again whenever that changes, and look at the pictures
before you commit them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from qusr_train.evaluation.fidelity import psnr, ssim
from qusr_train.images.heatmap import colorize
from qusr_train.images.read import read_image
from qusr_train.model.map_calibration import DEFAULT_ERROR, TrustLevel
from qusr_train.model.noise import seeded_noise
from qusr_train.restore import Restorer
from tests.support.comfyui import ROOT

PHOTOS = ROOT / "tests" / "photos" / "readme"
ROWS = ("face", "text", "fabric", "foliage")
EXAMPLE = ROOT / "nodes" / "example_photo"
HELP = ROOT / "js" / "docs"
DIAL_HELP = HELP / "QUSRUpscale.md"
PICTURES = ROOT / ".github" / "pictures"
POSITIONS = (0.0, 0.5, 1.0)
BRIGHTEST = 24.0  # grey levels of expected error that the heatmap ends with
SIDE, GAP = 320, 4


@dataclass(frozen=True)
class Result:
    """A photo at one position of the dial."""

    image: Tensor
    """(1, 3, H, W) in [0, 1]."""
    bicubic: Tensor
    error: Tensor
    """(1, H, W), expected absolute error in grey levels."""
    trust: TrustLevel
    """What its calibration promises."""


def dialled(photo: Tensor, detail: float) -> Result:
    """What QUSR Upscale gives with the preset dial: LoRA and noise at `detail` (nodes/native/nano.py)."""
    restorer = Restorer(lora_strength=detail)
    shuffle = restorer.checkpoint.config.shuffle
    size = (1, 3 * shuffle**2, photo.shape[-2], photo.shape[-1])
    done = restorer(photo, noise=seeded_noise(size, 0) * detail)
    meaning = restorer.checkpoint.map_calibration
    assert done.expected_error is not None  # the bundled model's map has a unit
    assert meaning is not None
    trust = meaning.trust_for(DEFAULT_ERROR)
    assert trust is not None  # and is calibrated
    return Result(done.image, done.bicubic, done.expected_error, trust)


def picture(rgb: Tensor, side: int = SIDE) -> Image.Image:
    """(1, 3, H, W) in [0, 1] as a square picture."""
    array = (rgb[0].movedim(0, -1).clamp(0, 1).numpy() * 255).round().astype(np.uint8)
    return Image.fromarray(array).resize((side, side), Image.Resampling.LANCZOS)


def sheet(rows: list[list[Image.Image]], names: tuple[str, ...]) -> Image.Image:
    """Rows of squares with the columns' names below."""
    step = SIDE + GAP
    result = Image.new("RGB", (step * len(names) - GAP, step * len(rows) + 22), "white")
    draw, font = ImageDraw.Draw(result), ImageFont.load_default(15)
    for y, row in enumerate(rows):
        for x, part in enumerate(row):
            result.paste(part, (x * step, y * step))
    for x, name in enumerate(names):
        draw.text((x * step + SIDE // 2, step * len(rows) + 10), name, "black", font=font, anchor="mm")
    return result


def before_and_after() -> None:
    """README: four photos, both ends of the dial, and the map with its trust mask."""
    rows = []
    for name in ROWS:
        photo = read_image(PHOTOS / f"{name}.png").rgb
        fidelity, detail = dialled(photo, 0.0), dialled(photo, 1.0)
        heat = colorize((detail.error / BRIGHTEST).clamp(0, 1), "turbo")
        trusted = detail.error < detail.trust.threshold
        masked = torch.where(trusted[:, None], detail.image, detail.image.mean(1, keepdim=True) * 0.35)
        rows.append([picture(part) for part in (detail.bicubic, fidelity.image, detail.image, heat, masked)])
    promise = f"trusted: error below {detail.trust.error:g}"
    names = ("enlarged photo", "fidelity (0)", "detail (1)", f"expected error, 0 to {BRIGHTEST:g}", promise)
    sheet(rows, names).save(PICTURES / "before-after.webp", quality=88, method=6)


def high_pass(image: np.ndarray) -> float:
    """Root mean square of what a 3 x 3 mean leaves of the brightness."""
    grey = torch.from_numpy(image).float().mean(-1)[None, None]
    padded = torch.nn.functional.pad(grey, (1, 1, 1, 1), mode="replicate")
    return (grey - torch.nn.functional.avg_pool2d(padded, 3, 1)).square().mean().sqrt().item()


def dial() -> None:
    """The help of QUSR Upscale: pictures and figures at 0, 0.5 and 1, on the bundled example that nano never saw."""
    small, original = (read_image(EXAMPLE / f"osprey-{name}.png").rgb for name in ("small", "original"))

    def array(x: Tensor) -> np.ndarray:
        return (x[0].movedim(0, -1).clamp(0, 1) * 255).round().numpy() / np.float32(255)

    target = array(original)
    results = {f"detail {position:g}": dialled(small, position) for position in POSITIONS}
    shown = {"bicubic": results["detail 1"].bicubic, **{name: result.image for name, result in results.items()}}
    lines = ["| | PSNR (Y) | SSIM (Y) | sharpness |", "|---|---|---|---|"]
    for name, image in shown.items():
        ours = array(image)
        figures = psnr(ours, target), ssim(ours, target), high_pass(ours) / high_pass(target)
        lines.append("| {} | {:.2f} dB | {:.4f} | {:.2f} |".format(name, *figures))
    note = (
        "The bundled example, which nano never saw, against its original\n(`python -m tests.tools.readme_pictures`). "
        "Sharpness: high-pass contrast, 1 as in the original."
    )
    text = DIAL_HELP.read_text(encoding="utf-8")
    block = (
        "<!-- dial -->\n![The dial at 0, 0.5 and 1](images/dial.webp)\n\n"
        + "\n".join(lines)
        + f"\n\n{note}\n<!-- /dial -->"
    )
    DIAL_HELP.write_text(re.sub(r"<!-- dial -->.*<!-- /dial -->", lambda _: block, text, flags=re.S), encoding="utf-8")
    left, top, right, bottom = 200, 20, 456, 276
    crops = [picture(image[..., top:bottom, left:right]) for image in shown.values()]
    sheet([crops], tuple(shown)).save(HELP / "images" / "dial.webp", quality=90, method=6)


def registry() -> None:
    """The icon (400 x 400) and the banner (21:9) that the Comfy registry and ComfyUI Manager show."""
    small = read_image(EXAMPLE / "osprey-small.png").rgb
    result = dialled(small, 1.0)
    left, top, side = 230, 30, 300
    window = (..., slice(top, top + side), slice(left, left + side))
    pixels = torch.nn.functional.interpolate(
        small[..., top // 4 : (top + side) // 4, left // 4 : (left + side) // 4], (side, side)
    )
    heat = colorize((result.error[window] / BRIGHTEST).clamp(0, 1), "turbo")
    before, after = picture(pixels, 400), picture(result.image[window], 400)
    icon = before.copy()
    icon.paste(after.crop((200, 0, 400, 400)), (200, 0))
    ImageDraw.Draw(icon).line([(200, 0), (200, 400)], "white", 5)
    icon.save(PICTURES / "icon.png", optimize=True)
    banner = Image.new("RGB", (1680, 720), "#14161c")
    for index, part in enumerate((pixels, result.image[window], heat)):
        banner.paste(picture(part, 400), (140 + index * 500, 60))
    draw = ImageDraw.Draw(banner)
    draw.text((140, 510), "QUSR: truer upscaling", "white", font=ImageFont.load_default(72))
    draw.text(
        (140, 615),
        "one step, a quality prompt, and a map of where the model had to guess",
        "#aeb6c8",
        font=ImageFont.load_default(34),
    )
    banner.save(PICTURES / "banner.png", optimize=True)


def main() -> None:
    """Everything; look at the pictures afterwards."""
    torch.set_grad_enabled(False)
    before_and_after()
    dial()
    registry()


if __name__ == "__main__":
    main()
