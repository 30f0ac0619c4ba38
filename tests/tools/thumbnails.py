"""Make the example workflows' thumbnails: python -m tests.tools.thumbnails.

Those that the bundled model runs show their true output. Those that need weights of the user's own get a card with the
small photo: no output of theirs is pretended.
"""

from __future__ import annotations

import io

from PIL import Image, ImageDraw, ImageFont

from tests.support import examples
from tests.support.comfyui import ROOT, Server
from tests.support.workflow import preview_output, to_prompt

SIDE, GAP = 400, 4
HEAD = (200, 20, 456, 276)
"""The bird's head in the 768 x 768 result, small enough to show what changed: left, top, right, bottom."""
STEPS = (("QUSREnlarge", 0), ("QUSRUncertaintyView", 0), ("QUSRAdaptiveNoise", 1), ("QUSRColorFix", 0))
CARDS = {
    examples.SD21: ("QUSR on SD 2.1", HEAD),
    examples.PISA_SR: ("PiSA-SR, two strengths", (120, 200, 504, 584)),
    examples.CODSR: ("CODSR, photo guide", (60, 40, 380, 360)),
    examples.VIDEO: ("Video, frame by frame", (0, 0, 768, 768)),
    examples.LIGHT_DECODER: ("A light decoder", (380, 300, 700, 620)),
}
DARK, PANEL, PALE = "#23262e", "#343945", "#b8c0d0"


class Outputs:
    """A workflow that the server has run; any output of its nodes as a picture."""

    def __init__(self, name: str, server: Server, wanted: tuple[tuple[str, int], ...]) -> None:
        prompt = to_prompt(examples.example(name), server.get("/object_info"))
        self.places = {one: preview_output(prompt, *one) for one in wanted}
        self.server, self.outputs = server, server.run(prompt)

    def __getitem__(self, one: tuple[str, int]) -> Image.Image:
        item = self.outputs[self.places[one]]["images"][0]
        return Image.open(io.BytesIO(self.server.image(item))).convert("RGB")


def _save(sheet: Image.Image, name: str) -> None:
    sheet.save(examples.FOLDER / f"{name}.jpg", quality=90)


def _square(picture: Image.Image, side: int = SIDE) -> Image.Image:
    return picture.crop(HEAD).resize((side, side), Image.Resampling.BICUBIC)


def _sheet(left: Image.Image, right: Image.Image) -> Image.Image:
    sheet = Image.new("RGB", (2 * SIDE + GAP, SIDE), "white")
    sheet.paste(left, (0, 0))
    sheet.paste(right, (SIDE + GAP, 0))
    return sheet


def _compared(name: str, server: Server) -> None:
    """Before | after of QUSR Compare."""
    pair = Outputs(name, server, (("QUSRCompare", 0),))["QUSRCompare", 0]
    right = pair.crop((pair.width - pair.height, 0, pair.width, pair.height))  # the results are square
    _save(_sheet(_square(pair), _square(right)), name)


def _steps(server: Server) -> None:
    """The bird four times: enlarged, its uncertainty, the noise, restored."""
    outputs = Outputs(examples.STEPS, server, STEPS)
    sheet = Image.new("RGB", (2 * SIDE + GAP, SIDE), "white")
    band = sheet.width // len(STEPS)
    for number, one in enumerate(STEPS):
        picture = outputs[one].resize((768, 768 * outputs[one].height // outputs[one].width))
        part = picture.crop((258, 20, 386, 276)).resize((band - GAP, SIDE), Image.Resampling.BICUBIC)
        sheet.paste(part, (number * band, 0))
    _save(sheet, examples.STEPS)


def _subgraph(server: Server) -> None:
    """The map over the photo | restored."""
    wanted = (("QUSRUncertaintyView", 1), ("QUSRColorFix", 0))
    overlay, restored = map(Outputs(examples.SUBGRAPH, server, wanted).__getitem__, wanted)
    _save(_sheet(_square(overlay), _square(restored)), examples.SUBGRAPH)


def _app(server: Server) -> None:
    """The app's three controls | its result."""
    restored = Outputs(examples.APP, server, (("QUSRUpscale", 0),))["QUSRUpscale", 0]
    panel = Image.new("RGB", (SIDE, SIDE), DARK)
    draw, font = ImageDraw.Draw(panel), ImageFont.load_default(20)
    small = Image.open(ROOT / "nodes" / "example_photo" / "osprey-small.png").convert("RGB")
    panel.paste(small.resize((170, 170), Image.Resampling.BICUBIC), (115, 26))
    for top, text in ((220, "balanced"), (280, "soft, slight noise")):
        draw.rounded_rectangle((50, top, 350, top + 44), 10, PANEL)
        draw.text((66, top + 10), text, PALE, font=font)
    draw.rounded_rectangle((50, 340, 350, 384), 10, "#3b6ea8")
    draw.text((200, 362), "Run", "white", font=font, anchor="mm")
    _save(_sheet(panel, restored.resize((SIDE, SIDE), Image.Resampling.BICUBIC)), examples.APP)


def _cards() -> None:
    small = Image.open(ROOT / "nodes" / "example_photo" / "osprey-small.png").convert("RGB")
    for name, (title, place) in CARDS.items():
        part = small.crop(tuple(round(side / 4) for side in place))  # type: ignore[arg-type]
        sheet = Image.new("RGB", (2 * SIDE + GAP, SIDE), DARK)
        if name == examples.VIDEO:
            for number in range(3):
                frame = part.crop((20 * number, 0, 128 + 20 * number, 192)).resize((132, 198), Image.Resampling.BICUBIC)
                sheet.paste(frame, (number * 134, 101))
        else:
            sheet.paste(part.resize((SIDE, SIDE), Image.Resampling.BICUBIC), (0, 0))
        draw = ImageDraw.Draw(sheet)
        draw.text((434, 150), title, "white", font=ImageFont.load_default(30))
        draw.text((434, 200), "with your SD 2.1-base weights", PALE, font=ImageFont.load_default(22))
        _save(sheet, name)


def main() -> None:
    """Make all of them."""
    _cards()
    with Server() as server:
        for name in (examples.UPSCALE, examples.PROMPTS):
            _compared(name, server)
        _steps(server)
        _subgraph(server)
        _app(server)


if __name__ == "__main__":
    main()
