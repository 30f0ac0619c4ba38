"""Make the example workflows' thumbnails from their true output: python -m tests.host.thumbnails."""

from __future__ import annotations

import io
import json

from PIL import Image

from .comfyui import ROOT, Server
from .workflow import preview_output, to_prompt

# The bird's head, small enough to show what changed: (left, top, right, bottom) of the 768 x 768 result.
CROP = (200, 20, 456, 276)


def main() -> None:
    """Run each workflow and save before | after of the crop beside it."""
    with Server() as server:
        info = server.get("/object_info")
        for path in sorted((ROOT / "example_workflows").glob("*.json")):
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
