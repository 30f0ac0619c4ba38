"""The uncertainty viewer in a real browser: true values under the pointer, settings that act at once, memory."""

from __future__ import annotations

import dataclasses
import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from qusr_train.checkpoints.nano_file import load_nano, save_nano
from qusr_train.images.heatmap import colorize
from qusr_train.images.read import read_image
from qusr_train.model.map_calibration import MapCalibration, TrustLevel
from qusr_train.model.nano import PixelUnshuffleVAE
from qusr_train.model.noise import injected_noise, noise_sigma, seeded_noise
from qusr_train.restore import Restorer
from tests.support.comfyui import Server, base_directory
from tests.support.examples import STEPS, UPSCALE, example

from .driver import ComfyPage, graph, node

ROOT = Path(__file__).resolve().parents[2]
VIEW = "QUSRUncertaintyView"
OLD = ROOT / "tests" / "golden" / "nano-0.1.0" / "qusr-nano.safetensors"
"""A model whose map has three channels and no unit; the bundled one's is in grey levels."""
OLD_NAME = "old-nano-for-the-viewer.safetensors"


def steps_with(name: str) -> dict[str, Any]:
    """The separate nodes with a nano file from models/qusr."""
    workflow = example(STEPS)
    loader = next(other for other in workflow["nodes"] if other["type"] == "QUSRNanoLoader")
    loader["widgets_values"] = [1.0, name]
    return workflow


@pytest.fixture(scope="module", autouse=True)
def old_model(server: Server) -> Iterator[None]:
    path = base_directory() / "models" / "qusr" / OLD_NAME
    shutil.copy(OLD, path)
    yield
    path.unlink()


@pytest.fixture(scope="module")
def truth() -> dict[str, torch.Tensor]:
    """What the example workflows must show, computed without ComfyUI: U, |U|, sigma and injected noise."""
    torch.set_num_threads(1)
    restorer = Restorer(load_nano(OLD))
    u = restorer(read_image(ROOT / "nodes" / "example_photo" / "osprey-small.png").rgb).uncertainty
    checkpoint = restorer.checkpoint
    encoded = PixelUnshuffleVAE(checkpoint.config.shuffle).encode(u) * checkpoint.latent_scale
    sigma = noise_sigma(encoded, checkpoint.noise)
    injected = injected_noise(seeded_noise(tuple(sigma.shape), 0), sigma, checkpoint.noise.p)
    rms = {"sigma": sigma.square().mean(1)[0].sqrt(), "injected": injected.square().mean(1)[0].sqrt()}
    return {"u": u[0], "mean": u[0].abs().mean(0), **rms}


def point_at(comfy: ComfyPage, fraction_x: float, fraction_y: float) -> None:
    """Move the mouse to a place of the picture that is shown whole."""
    box = comfy.viewer.locator("canvas").bounding_box()
    assert box
    comfy.page.mouse.move(box["x"] + fraction_x * box["width"], box["y"] + fraction_y * box["height"])
    comfy.page.wait_for_timeout(80)


def readings(comfy: ComfyPage) -> tuple[int, int, float, float, float]:
    """x, y, U, sigma and noise as the viewer writes them."""
    texts = comfy.viewer.locator(".qusr-readout > span").all_inner_texts()
    values = [text.split("\n")[1].replace("\u2248", "").strip() for text in texts]
    x, y = (int(v) for v in values[0].split(","))
    return x, y, *(float(v) for v in values[1:])  # type: ignore[return-value]


def wait_shown(comfy: ComfyPage) -> None:
    """Wait until the viewer shows a result. The classic renderer hides widgets out of view, so look there first."""
    comfy.look_at(VIEW)
    comfy.viewer.wait_for(state="visible")
    comfy.viewer.locator(".qusr-hint").wait_for(state="hidden")


def open_and_run(comfy: ComfyPage) -> None:
    comfy.load(steps_with(OLD_NAME))
    assert comfy.run() == "success"
    wait_shown(comfy)


def test_hover_reads_the_tensors_true_values(comfy: ComfyPage, truth: dict[str, torch.Tensor]) -> None:
    open_and_run(comfy)
    seen = set()
    for fraction in ((0.5, 0.4), (0.31, 0.77), (0.9, 0.05)):
        point_at(comfy, *fraction)
        x, y, value, sigma, noise = readings(comfy)
        seen.add((x, y))
        assert abs(x - fraction[0] * 768) < 4
        assert abs(y - fraction[1] * 768) < 4
        assert value == pytest.approx(float(truth["mean"][y, x]), rel=1e-3)
        assert sigma == pytest.approx(float(truth["sigma"][y // 4, x // 4]), rel=1e-3)
        assert noise == pytest.approx(float(truth["injected"][y // 4, x // 4]), rel=1e-3)
    assert len(seen) == 3
    assert comfy.viewer.locator(".qusr-marker").is_visible()


def test_one_channel_can_be_read_and_is_kept_in_the_workflow(comfy: ComfyPage, truth: dict[str, torch.Tensor]) -> None:
    open_and_run(comfy)
    comfy.viewer.locator("select").select_option("green")
    comfy.page.wait_for_timeout(500)
    point_at(comfy, 0.45, 0.3)
    x, y, value, *_ = readings(comfy)
    assert value == pytest.approx(float(truth["u"][1, y, x]), rel=1e-3, abs=1e-5)
    saved = comfy.value("window.app.graph.serialize()")
    view = next(other for other in saved["nodes"] if other["type"] == VIEW)
    assert view["properties"]["qusr_plane"] == "green"
    comfy.load(saved)
    assert comfy.viewer.locator("select").input_value() == "green"


PIXEL = """(canvas) => [...canvas.getContext("2d").getImageData(200, 300, 1, 1).data].slice(0, 3)"""


def test_settings_of_the_node_act_without_a_run(comfy: ComfyPage, truth: dict[str, torch.Tensor]) -> None:
    open_and_run(comfy)
    canvas = comfy.viewer.locator("canvas")
    value = truth["mean"][300, 200]
    for colormap, mode in (("magma", "auto"), ("viridis", "fixed")):
        comfy.set_widget(VIEW, "colormap", colormap)
        comfy.set_widget(VIEW, "range", mode)
        comfy.set_widget(VIEW, "range_max", 2.0)
        comfy.page.wait_for_timeout(300)
        high = 2.0 if mode == "fixed" else float(truth["mean"].max())
        wanted = colorize((value / high)[None, None, None], colormap)[0, :, 0, 0] * 255
        assert np.abs(np.array(canvas.evaluate(PIXEL)) - wanted.numpy()).max() < 4
    comfy.set_widget(VIEW, "opacity", 0.25)
    comfy.page.wait_for_timeout(300)
    assert canvas.evaluate("(canvas) => canvas.style.opacity") == "0.25"


def test_moving_the_pointer_draws_no_pixels(comfy: ComfyPage) -> None:
    open_and_run(comfy)
    comfy.value(
        """() => {
          window.drawn = 0;
          for (const name of ["putImageData", "drawImage", "createImageData", "getImageData"]) {
            const original = CanvasRenderingContext2D.prototype[name];
            CanvasRenderingContext2D.prototype[name] = function (...a) {
              if (this.canvas.closest(".qusr-frame")) window.drawn++;
              return original.apply(this, a);
            };
          }
        }"""
    )
    for step in range(10):
        point_at(comfy, 0.2 + step * 0.05, 0.5)
    assert comfy.value("window.drawn") == 0
    comfy.set_widget(VIEW, "colormap", "grey")
    comfy.page.wait_for_timeout(300)
    assert comfy.value("window.drawn") == 2, "the counter works: a colour change draws once"


def test_keyboard_moves_the_probe_and_zooms(comfy: ComfyPage, truth: dict[str, torch.Tensor]) -> None:
    open_and_run(comfy)
    comfy.viewer.locator(".qusr-stage").focus()
    before = comfy.value("window.app.canvas.ds.scale")
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "Shift+ArrowLeft", "+", "+"):
        comfy.page.keyboard.press(key)
    x, y, value, *_ = readings(comfy)
    assert (x, y) == (384 + 1 - 10, 384 + 1)
    assert value == pytest.approx(float(truth["mean"][y, x]), rel=1e-3)
    layer = comfy.viewer.locator(".qusr-layer")
    zoomed = float(re.search(r"scale\(([\d.]+)\)", layer.get_attribute("style") or "")[1])  # type: ignore[index]
    comfy.page.keyboard.press("0")
    whole = float(re.search(r"scale\(([\d.]+)\)", layer.get_attribute("style") or "")[1])  # type: ignore[index]
    assert zoomed == pytest.approx(whole * 1.25**2, rel=1e-3)
    assert comfy.value("window.app.canvas.ds.scale") == before


def test_wheel_zooms_the_picture_after_a_click_and_the_graph_before(comfy: ComfyPage) -> None:
    open_and_run(comfy)
    layer, stage = comfy.viewer.locator(".qusr-layer"), comfy.viewer.locator(".qusr-stage")
    box = stage.bounding_box()
    assert box
    comfy.page.mouse.move(box["x"] + 60, box["y"] + 60)
    start, graph = layer.get_attribute("style"), comfy.value("window.app.canvas.ds.scale")
    comfy.page.mouse.wheel(0, -100)
    comfy.page.wait_for_timeout(400)
    assert layer.get_attribute("style") == start
    assert comfy.value("window.app.canvas.ds.scale") != graph
    comfy.look_at(VIEW)
    box = stage.bounding_box()
    assert box
    comfy.page.mouse.click(box["x"] + 60, box["y"] + 60)
    graph = comfy.value("window.app.canvas.ds.scale")
    comfy.page.mouse.wheel(0, -100)
    comfy.page.wait_for_timeout(400)
    assert layer.get_attribute("style") != start
    assert comfy.value("window.app.canvas.ds.scale") == graph


def test_batch_can_be_flipped_through(comfy: ComfyPage) -> None:
    frames = node(1, "EmptyImage", [64, 48, 3, 255], outputs=[("IMAGE", "IMAGE")])
    estimate = node(2, "QUSRUncertainty", ["auto"], [("image", "IMAGE")], [("uncertainty", "QUSR_UNCERTAINTY")])
    view = node(
        3, VIEW, ["turbo", 0.55, "auto", 0.0, 1.0, True], [("uncertainty", "QUSR_UNCERTAINTY")], size=(420, 640)
    )
    comfy.load(graph([frames, estimate, view], [(1, 2, "IMAGE"), (2, 3, "QUSR_UNCERTAINTY")]))
    assert comfy.run() == "success"
    wait_shown(comfy)
    assert "1 / 3" in comfy.viewer.inner_text()
    comfy.viewer.get_by_role("button", name="Next image").click()
    comfy.page.keyboard.press("]")
    comfy.viewer.locator(".qusr-stage").focus()
    comfy.page.keyboard.press("]")
    assert "3 / 3" in comfy.viewer.inner_text()
    assert comfy.viewer.get_by_role("button", name="Next image").is_disabled()


def test_view_is_saved_as_a_picture(comfy: ComfyPage) -> None:
    open_and_run(comfy)
    with comfy.page.expect_download() as waiting:
        comfy.viewer.get_by_role("button", name="Save what is visible").click()
    data = Path(waiting.value.path()).read_bytes()
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    assert picture.size == (768, 768 + 34)
    assert np.asarray(picture)[:768].std() > 20


def test_result_survives_reload_undo_and_another_tab_and_says_when_it_is_gone(comfy: ComfyPage) -> None:
    open_and_run(comfy)
    hint = comfy.viewer.locator(".qusr-hint")
    saved = comfy.value("window.app.graph.serialize()")

    comfy.set_widget(VIEW, "colormap", "grey")
    tracker = "window.app.extensionManager.workflow.activeWorkflow.changeTracker"
    comfy.value(f"() => {{ {tracker}.captureCanvasState?.() ?? {tracker}.checkState(); }}")
    comfy.value(f"async () => {{ await {tracker}.undo(); }}")
    assert comfy.widget(VIEW, "colormap") == "turbo", "something was undone"
    wait_shown(comfy)

    comfy.load(UPSCALE)
    assert "Run the workflow" in hint.inner_text()
    comfy.switch_tab(-2)
    assert comfy.value("window.app.graph.id") == saved["id"]
    wait_shown(comfy)

    comfy.reload(saved)
    wait_shown(comfy)
    point_at(comfy, 0.5, 0.5)
    assert readings(comfy)[2] > 0

    files = base_directory() / "temp" / "qusr"
    away = files.rename(files.with_name("qusr-away"))  # ComfyUI empties the temp folder when it starts
    try:
        comfy.reload(saved)
        comfy.look_at(VIEW)
        comfy.page.wait_for_function("document.querySelector('.qusr-hint')?.textContent.includes('no longer')")
        assert "Run the workflow again" in hint.inner_text()
    finally:
        away.rename(files)


def test_result_is_kept_for_its_tab_when_the_run_is_faster_than_the_answer_to_it(comfy: ComfyPage) -> None:
    """ComfyUI keeps a tab's results only if the queue request is answered before the nodes have run."""
    comfy.load(STEPS)
    comfy.value(
        """() => {
          const { api } = window.app;
          const ended = new Promise((resolve) => api.addEventListener("execution_success", resolve, { once: true }));
          api.queuePrompt = async function (...given) {
            delete api.queuePrompt;
            const answer = await api.queuePrompt(...given);
            await ended;
            return answer;
          };
        }"""
    )
    assert comfy.run() == "success"
    wait_shown(comfy)
    saved = comfy.value("window.app.graph.serialize()")
    comfy.load(UPSCALE)
    assert "Run the workflow" in comfy.viewer.locator(".qusr-hint").inner_text()
    comfy.switch_tab(-2)
    assert comfy.value("window.app.graph.id") == saved["id"]
    wait_shown(comfy)


@pytest.fixture
def calibrated_workflow(server: Server) -> Iterator[dict[str, Any]]:
    """The separate nodes with a model whose file says that |U| = 1 is 100 grey levels."""
    name = "calibrated-for-the-viewer.safetensors"
    path = base_directory() / "models" / "qusr" / name
    meaning = MapCalibration(((0.0, 0.0), (1.0, 100.0)), (TrustLevel(8.0, 0.9, 10.0),), "a test")
    save_nano(path, dataclasses.replace(load_nano(OLD), calibration=meaning))
    yield steps_with(name)
    path.unlink()


def test_a_map_with_a_unit_is_read_in_grey_levels(
    comfy: ComfyPage, truth: dict[str, torch.Tensor], calibrated_workflow: dict[str, Any]
) -> None:
    comfy.load(calibrated_workflow)
    assert comfy.run() == "success"
    wait_shown(comfy)
    point_at(comfy, 0.5, 0.4)
    x, y, value, sigma, _ = readings(comfy)
    assert value == pytest.approx(100 * float(truth["mean"][y, x]), rel=2e-3)
    assert sigma == pytest.approx(float(truth["sigma"][y // 4, x // 4]), rel=1e-3)  # the noise reads the raw map
    cell = comfy.viewer.locator(".qusr-readout > span").nth(1)
    assert cell.locator("small").inner_text() == "error (grey levels)"
    assert (cell.get_attribute("title") or "").startswith("Expected absolute error here, of 255 grey levels")
    assert comfy.viewer.locator(".qusr-ends > span").nth(1).inner_text().endswith(" grey levels")
    assert comfy.viewer.locator(".qusr-histogram svg").get_attribute("aria-label") == (
        "Histogram of the expected error in grey levels"
    )
    options = comfy.viewer.locator("select > option")
    assert options.first.inner_text() == "expected error"
    assert options.nth(1).is_disabled()

    open_and_run(comfy)  # and a map without a unit has its old words again
    point_at(comfy, 0.5, 0.4)
    assert comfy.viewer.locator(".qusr-readout > span small").nth(1).inner_text() == "|U|"
    assert "grey" not in comfy.viewer.locator(".qusr-ends").inner_text()
    assert options.first.inner_text() == "mean of channels"
    assert not options.nth(1).is_disabled()
