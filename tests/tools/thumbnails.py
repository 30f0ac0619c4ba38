"""Make the example workflows' thumbnails from their true output: python -m tests.tools.thumbnails."""

from __future__ import annotations

import io
import json

from PIL import Image, ImageDraw, ImageFont

from tests.support.comfyui import ROOT, Server
from tests.support.workflow import preview_output, to_prompt

# The bird's head, small enough to show what changed: (left, top, right, bottom) of the 768 x 768 result.
CROP = (200, 20, 456, 276)


NEED_WEIGHTS = "qusr_sd21"
CARDS = {
    "qusr_sd21": "QUSR on SD 2.1",
    "qusr_sd21_pisa_sr": "PiSA-SR, two strengths",
    "qusr_sd21_video": "Video frames",
    "qusr_sd21_light_decoder": "Light decoder",
}


def _needs_weights() -> None:
    """Cards for the workflows whose weights do not come with the extension: no output of theirs is pretended."""
    small = Image.open(ROOT / "nodes" / "example_photo" / "osprey-small.png").convert("RGB")
    left, top, right, bottom = (round(side / 4) for side in CROP)
    photo = small.crop((left, top, right, bottom)).resize((400, 400), Image.Resampling.BICUBIC)
    for stem, title in CARDS.items():
        sheet = Image.new("RGB", (2 * 400 + 4, 400), "#23262e")
        sheet.paste(photo, (0, 0))
        draw = ImageDraw.Draw(sheet)
        draw.text((434, 150), title, "white", font=ImageFont.load_default(30))
        draw.text((434, 200), "with your SD 2.1-base weights", "#b8c0d0", font=ImageFont.load_default(22))
        sheet.save(ROOT / "example_workflows" / f"{stem}.jpg", quality=90)


def main() -> None:
    """Run each workflow and save before | after of the crop beside it."""
    _needs_weights()
    with Server() as server:
        info = server.get("/object_info")
        for path in sorted((ROOT / "example_workflows").glob("*.json")):
            if path.stem.startswith(NEED_WEIGHTS):
                continue
            prompt = to_prompt(json.loads(path.read_text(encoding="utf-8")), info)
            if not any(node["class_type"] == "QUSRCompare" for node in prompt.values()):
                print(f"{path.stem}: no QUSR Compare in it; its thumbnail stays as it is")
                continue
            watched = preview_output(prompt, "QUSRCompare")
            pair = Image.open(io.BytesIO(server.image(server.run(prompt)[watched]["images"][0]))).convert("RGB")
            half = pair.height  # the results are square
            left, top, right, bottom = CROP
            before = pair.crop(CROP)
            offset = pair.width - half
            after = pair.crop((offset + left, top, offset + right, bottom))
            sheet = Image.new("RGB", (2 * 400 + 4, 400), "white")
            sheet.paste(before.resize((400, 400), Image.Resampling.BICUBIC), (0, 0))
            sheet.paste(after.resize((400, 400), Image.Resampling.BICUBIC), (404, 0))
            sheet.save(path.with_suffix(".jpg"), quality=90)


if __name__ == "__main__":
    main()
