"""Twenty seconds of the uncertainty viewer, filmed in a real Chromium in front of a real ComfyUI.

`python -m tests.tools.viewer_film` makes the README's .github/pictures/viewer.webp; look at it before you commit it.
"""

from __future__ import annotations

import io
import math
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from tests.e2e.driver import ComfyPage
from tests.support.browser import find_browser
from tests.support.comfyui import ROOT, Server

SECONDS, FRAMES_A_SECOND, WIDTH = 20, 3, 640
WORKFLOW, NODE = "Upscale step by step", "QUSRUncertaintyView"


def film(path: Path) -> None:
    """Run the example and follow the pointer over the map, zoomed in for the middle part."""
    with Server() as server, sync_playwright() as playwright:
        found = find_browser()
        browser = playwright.chromium.launch(
            executable_path=found.path, env=dict(found.env), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1400, "height": 1300})
        page.set_default_timeout(180_000)  # of a busy machine
        comfy = ComfyPage(page, server)
        comfy.open(nodes2=True)
        comfy.load(WORKFLOW)
        if (outcome := comfy.run()) != "success":
            raise RuntimeError(f"{WORKFLOW}: {outcome}")
        comfy.look_at(NODE)
        comfy.viewer.first.wait_for()
        comfy.viewer.locator(".qusr-stage").first.click()  # from now on the wheel zooms the map and not the graph
        comfy.page.wait_for_timeout(1500)
        frames = [_frame(comfy, index) for index in range(SECONDS * FRAMES_A_SECOND)]
        browser.close()
    size = (WIDTH, WIDTH * frames[0].height // frames[0].width)
    small = [frame.resize(size, Image.Resampling.LANCZOS) for frame in frames]
    small[0].save(
        path, save_all=True, append_images=small[1:], duration=1000 // FRAMES_A_SECOND, loop=0, quality=70, method=4
    )


def _frame(comfy: ComfyPage, index: int) -> Image.Image:
    viewer, stage = (comfy.viewer.first.locator(part).bounding_box() for part in ("xpath=.", ".qusr-stage"))
    if viewer is None or stage is None:
        raise RuntimeError("the viewer is not on the page")
    count = SECONDS * FRAMES_A_SECOND
    angle = 4 * math.pi * index / count
    comfy.page.mouse.move(
        stage["x"] + stage["width"] * (0.5 + 0.3 * math.cos(angle)),
        stage["y"] + stage["height"] * (0.45 + 0.25 * math.sin(angle)),
    )
    third = index * 3 // count
    if index in range(count // 3, count // 3 + 4) or index in range(2 * count // 3, 2 * count // 3 + 4):
        comfy.page.mouse.wheel(0, -60 if third == 1 else 60)
    comfy.page.wait_for_timeout(80)
    # Of the page and not of the element, which playwright would first wait for to be still.
    shot = comfy.page.screenshot(clip=viewer, type="jpeg", quality=95, animations="allow")
    return Image.open(io.BytesIO(shot)).convert("RGB")


if __name__ == "__main__":
    film(ROOT / ".github" / "pictures" / "viewer.webp")
