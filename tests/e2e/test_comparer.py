"""The comparer in a real browser: four modes, synchronised zoom, keyboard, memory."""

from __future__ import annotations

import pytest

from tests.support.examples import UPSCALE

from .driver import ComfyPage, graph, node

COMPARE = "QUSRCompare"
MODES = ("Slider", "Side by side", "Difference", "Flicker")


def open_and_run(comfy: ComfyPage) -> None:
    comfy.load(UPSCALE)
    assert comfy.run() == "success"
    comfy.look_at(COMPARE)
    comfy.comparer.locator(".qusr-hint").wait_for(state="hidden")


def choose(comfy: ComfyPage, mode: str) -> None:
    comfy.comparer.get_by_role("button", name=f"{mode} (key").click()


def test_slider_follows_mouse_and_keys(comfy: ComfyPage) -> None:
    open_and_run(comfy)
    choose(comfy, "Slider")
    slider = comfy.comparer.get_by_role("slider")
    after = comfy.comparer.locator(".qusr-pane").nth(1)
    box = comfy.comparer.locator(".qusr-stage").bounding_box()
    assert box
    middle = box["y"] + box["height"] / 3
    knob = slider.bounding_box()
    assert knob
    comfy.page.mouse.move(knob["x"] + knob["width"] / 2, middle)
    comfy.page.mouse.down()
    comfy.page.mouse.move(box["x"] + 0.25 * box["width"], middle, steps=4)
    comfy.page.mouse.up()
    assert int(slider.get_attribute("aria-valuenow") or "") == pytest.approx(25, abs=1)
    assert "25" in (after.evaluate("(pane) => pane.style.clipPath"))
    comfy.page.mouse.click(box["x"] + 0.8 * box["width"], middle)
    assert comfy.comparer.locator(".qusr-stage").bounding_box() == box, "the node was dragged along"
    assert int(slider.get_attribute("aria-valuenow") or "") == pytest.approx(80, abs=1)
    slider.focus()
    comfy.page.keyboard.press("ArrowLeft")
    comfy.page.keyboard.press("Shift+ArrowLeft")
    assert int(slider.get_attribute("aria-valuenow") or "") == pytest.approx(69, abs=1)


def test_modes_show_what_they_say(comfy: ComfyPage) -> None:
    open_and_run(comfy)
    panes = comfy.comparer.locator(".qusr-pane")
    for mode in MODES:
        choose(comfy, mode)
        pressed = [button for button in MODES if comfy.comparer.get_by_role("button", name=f"{button} (key")
                   .get_attribute("aria-pressed") == "true"]  # fmt: skip
        assert pressed == [mode]
    choose(comfy, "Side by side")
    left, right = panes.nth(0).bounding_box(), panes.nth(1).bounding_box()
    assert left
    assert right
    assert right["x"] == pytest.approx(left["x"] + left["width"], abs=2)
    choose(comfy, "Flicker")
    states = {panes.nth(1).evaluate("(pane) => pane.style.visibility") for _ in range(30) if not
              comfy.page.wait_for_timeout(60)}  # fmt: skip
    assert states == {"visible", "hidden"}


DIFFERENCE = """(canvas) => {
  const read = (source) => {
    const copy = document.createElement("canvas");
    [copy.width, copy.height] = [canvas.width, canvas.height];
    const context = copy.getContext("2d");
    context.drawImage(source, 0, 0);
    return context.getImageData(0, 0, copy.width, copy.height).data;
  };
  const frame = canvas.closest(".qusr-frame");
  const [a, b] = [...frame.querySelectorAll("img")].map(read);
  const d = read(canvas);
  let wrong = 0, total = 0;
  for (let i = 0; i < d.length; i++) if (i % 4 < 3) {
    total += d[i];
    if (Math.abs(Math.abs(a[i] - b[i]) - d[i]) > 1) wrong++;
  }
  return [wrong, total];
}"""


def test_difference_is_the_pixels_difference_times_the_gain(comfy: ComfyPage) -> None:
    open_and_run(comfy)
    choose(comfy, "Difference")
    canvas = comfy.comparer.locator("canvas")
    wrong, total = canvas.evaluate(DIFFERENCE)
    assert wrong == 0
    assert total > 100_000, "the two pictures differ"
    comfy.comparer.locator("select").select_option("16")
    assert canvas.evaluate("(canvas) => canvas.style.filter") == "brightness(16)"


def test_all_pictures_zoom_in_step_and_the_mode_is_saved(comfy: ComfyPage) -> None:
    open_and_run(comfy)
    choose(comfy, "Side by side")
    comfy.comparer.locator(".qusr-stage").focus()
    before = comfy.comparer.locator(".qusr-layer").first.get_attribute("style")
    comfy.page.keyboard.press("+")
    comfy.page.keyboard.press("+")
    styles = {layer.get_attribute("style") for layer in comfy.comparer.locator(".qusr-layer").all()}
    assert len(styles) == 1
    assert styles != {before}
    comfy.page.keyboard.press("3")
    comfy.page.wait_for_timeout(500)  # the panes are wider now
    styles = {layer.get_attribute("style") for layer in comfy.comparer.locator(".qusr-layer").all()}
    saved = comfy.value("window.app.graph.serialize()")
    assert next(n for n in saved["nodes"] if n["type"] == COMPARE)["properties"]["qusr_mode"] == "difference"
    comfy.reload(saved)
    comfy.look_at(COMPARE)
    comfy.comparer.locator(".qusr-hint").wait_for(state="hidden")
    assert comfy.comparer.get_by_role("button", name="Difference (key").get_attribute("aria-pressed") == "true"
    assert {layer.get_attribute("style") for layer in comfy.comparer.locator(".qusr-layer").all()} == styles


def test_different_sizes_and_batches(comfy: ComfyPage) -> None:
    small = node(1, "EmptyImage", [40, 30, 1, 255], outputs=[("IMAGE", "IMAGE")])
    large = node(2, "EmptyImage", [120, 90, 2, 16711680], outputs=[("IMAGE", "IMAGE")])
    compare = node(3, COMPARE, [], [("before", "IMAGE"), ("after", "IMAGE")], size=(500, 460))
    comfy.load(graph([small, large, compare], [(1, 3, "IMAGE"), (2, 3, "IMAGE")]))
    assert comfy.run() == "success"
    comfy.look_at(COMPARE)
    comfy.comparer.locator(".qusr-hint").wait_for(state="hidden")
    text = comfy.comparer.inner_text()
    assert "before 40 x 30, resized" in text
    assert "after 120 x 90" in text
    assert "1 / 2" in text
    comfy.comparer.locator(".qusr-stage").focus()
    comfy.page.keyboard.press("]")
    assert "2 / 2" in comfy.comparer.inner_text()
