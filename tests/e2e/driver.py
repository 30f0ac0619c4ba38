"""What the browser tests and the picture script do with a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from playwright.sync_api import ConsoleMessage, Locator, Page

from tests.support.comfyui import Server
from tests.support.examples import example

ROOT = Path(__file__).resolve().parents[2]

RUN = """async () => {
  const { api } = window.app;
  const done = new Promise((resolve) => {
    api.addEventListener("execution_success", () => resolve("success"), { once: true });
    api.addEventListener("execution_error", (e) => resolve("error: " + e.detail.exception_message), { once: true });
  });
  await window.app.queuePrompt(0, 1);
  return done;
}"""


OVERLAPS = """() => {
  const { canvas, graph } = window.app;
  const boxes = graph.nodes.map((node) => {
    const shown = document.querySelector(`[data-node-id="${node.id}"]`)?.getBoundingClientRect();
    const scale = canvas.ds.scale;
    const [width, height] = shown ? [shown.width / scale, shown.height / scale] : [node.size[0], node.size[1] + 30];
    return { name: `${node.id} ${node.type}`, x: node.pos[0], y: node.pos[1] - 30, width, height };
  });
  const touch = (a, b) => Math.min(a.x + a.width, b.x + b.width) - Math.max(a.x, b.x) > 2
    && Math.min(a.y + a.height, b.y + b.height) - Math.max(a.y, b.y) > 2;
  return boxes.flatMap((a, i) => boxes.slice(i + 1).filter((b) => touch(a, b)).map((b) => `${a.name} and ${b.name}`));
}"""


Slot = tuple[str, str]
"""Name and type."""


def node(
    number: int,
    node_type: str,
    values: list[Any],
    inputs: list[Slot] | None = None,
    outputs: list[Slot] | None = None,
    size: tuple[int, int] = (270, 130),
) -> dict[str, Any]:
    """A node of a hand-made workflow."""
    return {
        "id": number,
        "type": node_type,
        "pos": [(number - 1) * 320, 0],
        "size": list(size),
        "flags": {},
        "order": number,
        "mode": 0,
        "properties": {},
        "widgets_values": values,
        "inputs": [{"name": name, "type": kind, "link": None} for name, kind in inputs or []],
        "outputs": [{"name": name, "type": kind, "links": []} for name, kind in outputs or []],
    }


def graph(nodes: list[dict[str, Any]], links: list[tuple[int, int, str]]) -> dict[str, Any]:
    """A workflow from nodes and links (from node, to node, type): first output, first free input of that type."""
    by_id = {item["id"]: item for item in nodes}
    rows = []
    for number, (source, target, kind) in enumerate(links, 1):
        slots = by_id[target]["inputs"]
        place = next(i for i, slot in enumerate(slots) if slot["type"] == kind and slot["link"] is None)
        slots[place]["link"] = number
        by_id[source]["outputs"][0]["links"].append(number)
        rows.append([number, source, 0, target, place, kind])
    return {
        "version": 0.4, "last_node_id": len(nodes), "last_link_id": len(links), "nodes": nodes, "links": rows,
        "groups": [], "config": {}, "extra": {},
    }  # fmt: skip


class ComfyPage:
    """ComfyUI's page in a browser."""

    def __init__(self, page: Page, server: Server) -> None:
        self.page = page
        self.server = server
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._console)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error" and "extensions/qusr" in f"{message.text} {message.location.get('url', '')}":
            self.errors.append(message.text)

    def setting(self, name: str, value: Any) -> None:
        self.server.post(f"/api/settings/{name}", value)

    def open(self, nodes2: bool, theme: str = "dark", locale: str = "en") -> None:
        """Load the page with the classic renderer or Nodes 2.0."""
        self.setting("Comfy.TutorialCompleted", True)
        self.setting("Comfy.Node.AlwaysShowAdvancedWidgets", True)
        self.setting("Comfy.VueNodes.Enabled", nodes2)
        self.setting("Comfy.ColorPalette", theme)
        self.setting("Comfy.Locale", locale)
        self.page.goto(self.server._url("/"))
        self.wait_ready()

    def wait_ready(self) -> None:
        self.page.wait_for_function("window.app?.extensionManager && window.app.graph?.nodes", timeout=90_000)
        self.page.wait_for_timeout(1500)

    def reload(self, workflow: dict[str, Any]) -> None:
        """Reload the page. ComfyUI brings an open workflow back by itself; else it is opened again."""
        self.page.reload()
        self.wait_ready()
        if self.value("window.app.graph.id") != workflow["id"]:
            self.load(workflow)

    def load(self, workflow: str | dict[str, Any]) -> None:
        """Open an example workflow by name, or a workflow given as JSON, in a tab of its own."""
        if isinstance(workflow, str):
            workflow = example(workflow)
        self.page.evaluate("async (data) => { await window.app.loadGraphData(data) }", workflow)
        self.page.wait_for_timeout(500)
        tour = self.page.get_by_role("button", name="Skip", exact=True)  # offered when an app is opened first
        if tour.count():
            tour.first.click()

    def close_dialogs(self) -> None:
        """ComfyUI's own windows, about an error or about missing models of a workflow that was open before."""
        windows = self.page.get_by_role("dialog")
        for _ in range(10):
            if not windows.count():
                return
            self.page.keyboard.press("Escape")
            self.page.wait_for_timeout(500)
        raise AssertionError(f"still open: {windows.all_inner_texts()}")

    def run(self) -> str:
        """Queue the graph and wait: "success" or "error: ...".."""
        return self.page.evaluate(RUN)

    def look_at(self, node_type: str, scale: float = 1.0) -> None:
        """Move the canvas so that the first node of a type fills the view from its top left corner."""
        self.page.evaluate(
            """([type, scale]) => {
              const { canvas, graph } = window.app;
              const node = graph.nodes.find((n) => n.type === type);
              canvas.ds.scale = scale;
              canvas.ds.offset = [160 / scale - node.pos[0], 130 / scale - node.pos[1]];
              canvas.setDirty(true, true);
            }""",
            [node_type, scale],
        )
        self.page.wait_for_timeout(600)

    def value(self, script: str, argument: Any = None) -> Any:
        return self.page.evaluate(script, argument)

    def switch_tab(self, index: int) -> None:
        """Click a workflow's tab."""
        self.page.locator(".workflow-tab").nth(index).click()
        self.page.wait_for_timeout(1200)

    def widget(self, node_type: str, name: str) -> Any:
        """The value of a node's setting."""
        return self.page.evaluate(
            """([type, name]) => window.app.graph.nodes.find((n) => n.type === type).widgets
              .find((w) => w.name === name).value""",
            [node_type, name],
        )

    def set_widget(self, node_type: str, name: str, value: Any) -> None:
        """Change a node's setting as its widget does."""
        self.page.evaluate(
            """([type, name, value]) => {
              const widget = window.app.graph.nodes.find((n) => n.type === type).widgets.find((w) => w.name === name);
              widget.value = value;
              widget.callback?.(value);
            }""",
            [node_type, name, value],
        )

    def overlaps(self) -> list[str]:
        """Pairs of nodes that lie on one another, by what the renderer shows of them."""
        self.page.evaluate("() => { Object.assign(window.app.canvas.ds, { scale: 0.25, offset: [400, 600] }); }")
        self.page.evaluate("() => window.app.canvas.setDirty(true, true)")
        self.page.wait_for_timeout(1500)  # Nodes 2.0 draws a node when it comes into view
        return self.page.evaluate(OVERLAPS)

    @property
    def viewer(self) -> Locator:
        return self.page.locator(".qusr-frame:has(.qusr-readout)")

    @property
    def comparer(self) -> Locator:
        return self.page.locator(".qusr-frame:has(.qusr-divider)")
