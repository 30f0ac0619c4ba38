"""Both renderers hide what does nothing, and show it again; old workflows keep their meaning."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import golden
from tests.support.comfyui import base_directory

from .driver import ComfyPage, graph, node

LABELS = """(type) => {
  const node = window.app.graph.nodes.find((n) => n.type === type);
  const vue = document.querySelector(`[data-node-id="${node.id}"]`);
  const label = (e) => !e.children.length && !e.closest("[role=combobox], [role=listbox], .p-select, select, button");
  const seen = vue && [...vue.querySelectorAll("*")].filter(label).map((e) => e.textContent.trim());
  return node.widgets
    .filter((w) => (seen ? seen.includes(w.label ?? w.name) : node.isWidgetVisible(w)))
    .map((w) => w.name);
}"""


def _shown(comfy: ComfyPage, node_type: str) -> set[str]:
    comfy.page.wait_for_timeout(400)
    return set(comfy.value(LABELS, node_type))


def _picture(comfy: ComfyPage, name: str) -> None:
    """For eyes: only where QUSR_SHOTS names a folder."""
    if folder := os.environ.get("QUSR_SHOTS"):
        vue = comfy.value("() => Boolean(document.querySelector('[data-node-id]'))")
        comfy.page.screenshot(path=Path(folder) / f"{name}-{'nodes2' if vue else 'classic'}.png")


@pytest.mark.parametrize(
    ("preset", "expected"),
    [("dial", {"detail"}), ("balanced", set()), ("custom", {"strength", "noise_strength"})],
)
def test_upscale_shows_what_its_preset_reads(comfy: ComfyPage, preset: str, expected: set[str]) -> None:
    comfy.load("Upscale a photo")
    comfy.look_at("QUSRUpscale")
    comfy.set_widget("QUSRUpscale", "preset", preset)
    shown = _shown(comfy, "QUSRUpscale")
    _picture(comfy, f"upscale-{preset}")
    dials = {"detail", "strength", "noise_strength"}
    assert shown & dials == expected
    assert {"preset", "seed", "size", "factor", "color_fix"} <= shown
    sizes = {"factor", "longest_side", "megapixels"}
    for size, number in (("megapixels", "megapixels"), ("longest side", "longest_side"), ("factor", "factor")):
        comfy.set_widget("QUSRUpscale", "size", size)
        assert _shown(comfy, "QUSRUpscale") & sizes == {number}


def test_a_hand_on_a_widget_shows_the_same(comfy: ComfyPage) -> None:
    """Through the renderer's own control, not through the node."""
    comfy.load(graph([node(1, "QUSROneStepDenoise", [1.0, 96, 32, "automatic"])], []))
    comfy.look_at("QUSROneStepDenoise")
    assert _shown(comfy, "QUSROneStepDenoise") == {"strength", "blend"}
    if comfy.value("() => Boolean(document.querySelector('[data-node-id]'))"):
        comfy.page.get_by_text("automatic", exact=True).first.click()
        comfy.page.get_by_role("option", name="smooth").first.click()
        assert comfy.widget("QUSROneStepDenoise", "blend") == "smooth"
    else:
        comfy.set_widget("QUSROneStepDenoise", "blend", "smooth")
    assert _shown(comfy, "QUSROneStepDenoise") == {"strength", "tile", "overlap", "blend"}
    assert comfy.widget("QUSROneStepDenoise", "tile") == 96


@pytest.fixture
def files() -> Iterator[None]:
    """Two of the family's files in models/qusr."""
    folder = base_directory() / "models" / "qusr"
    folder.mkdir(parents=True, exist_ok=True)
    copies = [Path(shutil.copy(golden.GOLDEN / "checkpoints" / name, folder)) for name in ("qusr.pkl", "pisa_sr.pkl")]
    yield
    for copy in copies:
        copy.unlink()


@pytest.mark.usefixtures("files")
def test_two_strengths_are_shown_for_pisa_sr(comfy: ComfyPage) -> None:
    comfy.load(graph([node(1, "QUSRLoader", ["pisa_sr.pkl", 1.0, 1.0, 1.0], [("model", "MODEL")])], []))
    comfy.value("() => window.app.refreshComboInNodes()")
    comfy.look_at("QUSRLoader")
    assert _shown(comfy, "QUSRLoader") == {"checkpoint", "strength", "pixel", "semantic"}
    comfy.set_widget("QUSRLoader", "checkpoint", "qusr.pkl")
    shown = _shown(comfy, "QUSRLoader")
    _picture(comfy, "loader")
    assert shown == {"checkpoint", "strength"}
    comfy.set_widget("QUSRLoader", "pixel", 0.5)  # refused with this file, so in sight
    assert _shown(comfy, "QUSRLoader") == {"checkpoint", "strength", "pixel", "semantic"}


def test_a_tile_of_an_old_workflow_is_said_in_a_word(comfy: ComfyPage) -> None:
    old = [
        node(1, "QUSREncode", [0, "exact", "mean", 0]),
        node(2, "QUSRDecode", [256, "exact"]),
        node(3, "QUSROneStepDenoise", [1.0, 0, 32]),
    ]
    comfy.load(graph(old, []))
    assert comfy.widget("QUSREncode", "tiles") == comfy.widget("QUSROneStepDenoise", "blend") == "automatic"
    assert (comfy.widget("QUSRDecode", "tiles"), comfy.widget("QUSRDecode", "tile")) == ("exact", 256)
    comfy.look_at("QUSREncode")
    assert _shown(comfy, "QUSREncode") == {"tiles", "posterior"}
    assert _shown(comfy, "QUSRDecode") == {"tile", "tiles"}


@pytest.mark.parametrize(
    ("numbers", "choice", "expected"),
    [
        ([-1, -1, -1, -1], "as trained", set()),
        ([-1, -1, 0.25, -1], "custom", {"k", "m", "p", "delta"}),
    ],
)
def test_numbers_of_an_old_workflow_keep_their_meaning(
    comfy: ComfyPage, numbers: list[float], choice: str, expected: set[str]
) -> None:
    values = [7, "fixed", 1.0, "auto", *numbers, 0, "exact"]  # as version 0.1 saved them
    comfy.load(graph([node(1, "QUSRAdaptiveNoise", values, [("vae", "VAE"), ("uncertainty", "QUSR_UNCERTAINTY")])], []))
    comfy.look_at("QUSRAdaptiveNoise")
    shown = _shown(comfy, "QUSRAdaptiveNoise")
    _picture(comfy, f"noise-{choice.split()[0]}")
    assert comfy.widget("QUSRAdaptiveNoise", "parameters") == choice
    assert comfy.widget("QUSRAdaptiveNoise", "seed") == 7
    numbers_of_noise = {"k", "m", "p", "delta"}
    assert shown & numbers_of_noise == expected
    assert {"seed", "strength", "variant", "parameters"} <= shown
