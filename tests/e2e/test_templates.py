"""The examples in a real browser: listed with a picture, opened, run; errors and progress as a user sees them."""

from __future__ import annotations

import re

import pytest

from tests.support.examples import ALL, APP, BUNDLED, STEPS, UPSCALE

from .driver import ComfyPage, graph, node

PICTURE = """async ([module, name]) => {
  const answer = await fetch(`/api/workflow_templates/${module}/${name}.jpg`);
  const image = await createImageBitmap(await answer.blob());
  return [image.width, image.height];
}"""
UNKNOWN = """() => {
  const known = (type) => type in window.LiteGraph.registered_node_types || type === "Reroute";
  return window.app.graph.nodes.map((n) => n.type).filter((type) => !known(type));
}"""

# Front ends before app mode have the command, too, under the label "toggle linear mode": an empty experiment.
HAS_APP_MODE = """() => window.app.extensionManager.command.commands.some(
  (c) => c.id === "Comfy.ToggleLinear" && /app mode/i.test(c.label))"""


def test_every_example_is_listed_with_its_picture(comfy: ComfyPage) -> None:
    listed = comfy.value("async () => (await fetch('/api/workflow_templates')).json()")
    module = next(name for name, workflows in listed.items() if UPSCALE in workflows)
    assert sorted(listed[module]) == list(ALL)
    for name in ALL:
        width, height = comfy.value(PICTURE, [module, name])
        assert min(width, height) >= 200
    comfy.value("() => window.app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    dialog = comfy.page.get_by_role("dialog")
    dialog.wait_for()
    dialog.get_by_text(module, exact=True).first.click()
    for name in ALL:
        dialog.get_by_text(name, exact=True).first.scroll_into_view_if_needed()  # pictures out of view are not loaded
        dialog.get_by_alt_text(name, exact=True).wait_for()
    comfy.page.mouse.click(5, 500)  # beside the dialog
    dialog.wait_for(state="hidden")


@pytest.mark.parametrize("name", ALL)
def test_every_example_opens_and_the_bundled_model_runs_it(comfy: ComfyPage, name: str) -> None:
    comfy.load(name)
    assert comfy.value(UNKNOWN) == []
    assert comfy.overlaps() == []
    if name in BUNDLED:
        assert comfy.run() == "success"


@pytest.mark.parametrize("words", ["super resolution", "seedvr"])
def test_search_finds_qusr_by_the_words_people_use(comfy: ComfyPage, words: str) -> None:
    info = comfy.server.get("/object_info/SaveImage")["SaveImage"]
    if "search_aliases" not in info:
        pytest.skip("this ComfyUI's nodes are searched by their names only")
    comfy.load(graph([], []))
    comfy.value("() => window.app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
    comfy.page.keyboard.type(words, delay=30)
    comfy.page.get_by_text("QUSR Upscale").first.wait_for()
    comfy.page.keyboard.press("Escape")


def test_the_app_shows_photo_dial_and_prompt(comfy: ComfyPage) -> None:
    if not comfy.value(HAS_APP_MODE):
        pytest.skip("this front end has no app mode")
    comfy.load(APP)
    controls = comfy.page.get_by_test_id("linear-widgets")
    for name in ("image", "detail", "prompt"):
        controls.get_by_text(name, exact=True).first.wait_for()
    comfy.load(UPSCALE)


def test_an_error_becomes_a_toast_with_the_remedy(comfy: ComfyPage) -> None:
    nodes = [
        node(1, "QUSRExamplePhoto", [], outputs=[("degraded", "IMAGE")]),
        node(
            2, "QUSRUncertainty", ["model"], inputs=[("image", "IMAGE")], outputs=[("uncertainty", "QUSR_UNCERTAINTY")]
        ),
        node(3, "QUSRUncertaintyView", [], inputs=[("uncertainty", "QUSR_UNCERTAINTY")]),
    ]
    comfy.load(graph(nodes, [(1, 2, "IMAGE"), (2, 3, "QUSR_UNCERTAINTY")]))
    assert comfy.run().startswith("error: uem: not connected")
    comfy.page.get_by_text(re.compile("^QUSR Uncertainty: uem: not connected$")).first.wait_for()
    comfy.page.get_by_text(re.compile("^Connect the uem output")).first.wait_for()
    comfy.close_dialogs()  # ComfyUI's own report of the error


def test_tiles_done_and_total_are_told_while_it_works(comfy: ComfyPage) -> None:
    comfy.load(STEPS)
    comfy.value(
        """() => {
          window.told = [];
          window.app.api.addEventListener("progress_text", (event) => window.told.push(event.detail));
        }"""
    )
    comfy.set_widget("QUSROneStepDenoise", "blend", "smooth")
    comfy.set_widget("QUSROneStepDenoise", "tile", 96)
    comfy.set_widget("QUSROneStepDenoise", "overlap", 16)
    # A value of its own, or the server would answer from its cache.
    comfy.set_widget("QUSROneStepDenoise", "strength", comfy.value("0.9 + 0.1 * Math.random()"))
    assert comfy.run() == "success"
    number = comfy.value("window.app.graph.nodes.find((n) => n.type === 'QUSROneStepDenoise').id")
    texts = [told["text"] for told in comfy.value("window.told") if str(told["nodeId"]) == str(number)]
    counts = [tuple(int(part) for part in re.findall(r"\d+", text)) for text in texts]
    assert len(counts) > 4
    assert counts == sorted(counts)
    assert counts[-1][0] == counts[-1][1], texts
