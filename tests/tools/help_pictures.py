"""Make the pictures of the help pages from true output: python -m tests.tools.help_pictures.

Results are computed with the bundled model on the example photo; the widgets are photographed in a real
Chromium, in both renderers. Look at them before you commit them.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from qusr_train.images.color import fix_color
from qusr_train.images.heatmap import add_legend, colorize
from qusr_train.images.read import read_image
from qusr_train.restore import Restorer
from tests.support.comfyui import ROOT, Server
from tests.support.examples import STEPS, UPSCALE
from tests.tools.thumbnails import HEAD

FOLDER = ROOT / "js" / "docs" / "images"
EXAMPLE = ROOT / "nodes" / "example_photo"
VIEWS = (("classic", False, "dark"), ("nodes2", True, "light"))  # renderer, whether it is Nodes 2.0, theme
ADD_NODE = """(type) => {
  const { graph } = window.app;
  if (graph.nodes.some((n) => n.type === type)) return;
  const node = window.LiteGraph.createNode(type);
  node.pos = [-3000, -1500 * graph.nodes.length];
  graph.add(node);
}"""
ASIDE = """() => {
  const { ds } = window.app.canvas;
  ds.offset = [ds.offset[0] + 200, ds.offset[1] + 120];
  window.app.canvas.setDirty(true, true);
}"""
NODE_BOX = """(type) => {
  const { canvas, graph } = window.app;
  const node = graph.nodes.find((n) => n.type === type);
  const [x, y, width, height] = node.boundingRect ?? node.getBounding();
  const { left, top } = canvas.canvas.getBoundingClientRect();
  const { scale, offset } = canvas.ds;
  return [left + (x + offset[0]) * scale, top + (y + offset[1]) * scale, width * scale, height * scale];
}"""
WIDGETS = {"QUSRCompare": UPSCALE, "QUSRUncertaintyView": STEPS}


def picture(rgb: Tensor) -> Image.Image:
    """(1, 3, H, W) in [0, 1]."""
    return Image.fromarray((rgb[0].movedim(0, -1).clamp(0, 1).numpy() * 255).round().astype(np.uint8))


def pair(node: str, left: Image.Image, right: Image.Image, names: tuple[str, str]) -> None:
    """Save two pictures side by side with their names below."""
    left, right = (x.resize((320, 320 * x.height // x.width), Image.Resampling.BICUBIC) for x in (left, right))
    sheet = Image.new("RGB", (644, max(left.height, right.height) + 26), "white")
    draw = ImageDraw.Draw(sheet)
    for x, part, name in ((0, left, names[0]), (324, right, names[1])):
        sheet.paste(part, (x, 0))
        draw.text((x + 4, sheet.height - 22), name, "black", font=ImageFont.load_default(16))
    sheet.save(FOLDER / f"{node}.webp", quality=80)


def results() -> None:
    """Pictures of the nodes that give an image."""
    restorer = Restorer()
    small = read_image(EXAMPLE / "osprey-small.png").rgb
    plain, fixed = restorer(small, color_fix="none"), restorer(small)
    whole = {
        "small": picture(small).resize((768, 768), Image.Resampling.NEAREST),
        "original": Image.open(EXAMPLE / "osprey-original.png").convert("RGB"),
        "bicubic": picture(fixed.bicubic),
        "restored": picture(fixed.image),
    }
    crop = {name: image.crop(HEAD) for name, image in whole.items()}
    pair("QUSRExamplePhoto", crop["small"], crop["original"], ("degraded", "original"))
    pair("QUSREnlarge", crop["small"], crop["bicubic"], ("image", "enlarged"))
    pair("QUSRUpscale", crop["bicubic"], crop["restored"], ("bicubic enlargement", "upscaled"))
    pair("QUSROneStepDenoise", crop["bicubic"], picture(plain.image).crop(HEAD), ("before", "restored, decoded"))
    tinted = (plain.image * torch.tensor([1.12, 1.0, 0.85]).view(1, 3, 1, 1)).clamp(0, 1)
    repaired = fix_color(tinted, fixed.bicubic, "wavelet")
    pair("QUSRColorFix", picture(tinted).crop(HEAD), picture(repaired).crop(HEAD), ("a result with a cast", "wavelet"))
    assert fixed.uncertainty is not None
    magnitude = fixed.uncertainty.abs().mean(1)
    high = float(magnitude.max())
    grey = (magnitude / high)[:, None].expand(-1, 3, -1, -1)
    heat = add_legend(colorize(magnitude / high, "turbo"), "turbo", 0.0, high)
    pair("QUSRUncertainty", whole["bicubic"], picture(grey), ("image", "mask: |U|, white where unsure"))
    picture(heat).resize((480, 480 * heat.shape[-2] // heat.shape[-1])).save(FOLDER / "heatmap.webp", quality=80)


def widgets() -> None:
    """Screenshots of the viewer and the comparer, in both renderers, one dark and one light."""
    from playwright.sync_api import sync_playwright

    from tests.e2e.driver import ComfyPage
    from tests.support.browser import find_browser

    found = find_browser()
    with Server() as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=found.path, env=dict(found.env), args=["--no-sandbox", "--disable-gpu"]
        )
        for name, nodes2, theme in VIEWS:
            page = ComfyPage(browser.new_context(viewport={"width": 1500, "height": 1500}).new_page(), server)
            page.open(nodes2=nodes2, theme=theme)
            for node, workflow in WIDGETS.items():
                page.load(workflow)
                if page.run() != "success":
                    raise RuntimeError(f"{workflow} did not run")
                page.look_at(node)
                frame = page.comparer if node == "QUSRCompare" else page.viewer
                frame.locator(".qusr-hint").wait_for(state="hidden")
                box = frame.bounding_box()
                assert box
                if node == "QUSRUncertaintyView":
                    page.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
                    page.page.wait_for_timeout(300)
                area = {
                    "x": box["x"] - 12,
                    "y": box["y"] - 60,
                    "width": box["width"] + 24,
                    "height": box["height"] + 72,
                }
                shot = Image.open(io.BytesIO(page.page.screenshot(clip=area))).convert("RGB")  # type: ignore[arg-type]
                shot.resize((640, 640 * shot.height // shot.width), Image.Resampling.LANCZOS).save(
                    FOLDER / f"{node}-{name}-{theme}.webp", quality=75
                )
            page.page.context.close()
        browser.close()


def nodes() -> None:
    """The other nodes as they stand in the graph, with what they say after the example ran."""
    from playwright.sync_api import sync_playwright

    from tests.e2e.driver import ComfyPage
    from tests.support.browser import find_browser

    pages = {path.stem for path in FOLDER.parent.glob("*.md")}
    missing = sorted(pages - {path.stem.split("-")[0] for path in FOLDER.glob("*.webp")} | {"QUSRQualityPrompt"})
    found = find_browser()
    with Server() as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=found.path, env=dict(found.env), args=["--no-sandbox", "--disable-gpu"]
        )
        page = ComfyPage(browser.new_context(viewport={"width": 1500, "height": 1500}).new_page(), server)
        page.open(nodes2=False)
        page.load(STEPS)
        page.run()
        for node in missing:
            page.value(ADD_NODE, node)
            page.look_at(node)
            page.value(ASIDE)
            page.page.wait_for_timeout(500)
            x, y, width, height = page.value(NODE_BOX, node)
            area = {"x": x - 8, "y": y - 8, "width": width + 16, "height": height + 16}
            shot = Image.open(io.BytesIO(page.page.screenshot(clip=area))).convert("RGB")  # type: ignore[arg-type]
            shot.save(FOLDER / f"{node}.webp", quality=80)
        browser.close()


def main() -> None:
    """Write all pictures and name their sizes."""
    FOLDER.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    results()
    widgets()
    nodes()
    for path in sorted(Path(FOLDER).glob("*.webp")):
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
