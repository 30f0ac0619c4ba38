"""The classic renderer hides what does nothing, Nodes 2.0 never what does; old workflows keep their meaning."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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


IS_NODES2 = "() => Boolean(window.LiteGraph.vueNodesMode)"


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
    nodes2 = comfy.value(IS_NODES2)
    assert shown & dials == (dials if nodes2 else expected)
    assert {"preset", "seed", "size", "factor", "color_fix"} <= shown
    comfy.set_widget("QUSRUpscale", "size", "megapixels")
    sizes = {"factor", "longest_side", "megapixels"}
    assert _shown(comfy, "QUSRUpscale") & sizes == (sizes if nodes2 else {"megapixels"})


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
    assert shown & numbers_of_noise == (numbers_of_noise if comfy.value(IS_NODES2) else expected)
    assert {"seed", "strength", "variant", "parameters"} <= shown
