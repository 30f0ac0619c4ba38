"""Turn a saved workflow (the front end's format) into a prompt (the server's format)."""

from __future__ import annotations

from typing import Any

PRIMITIVES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
NOT_RUN = ("Note", "MarkdownNote")
MUTED, BYPASSED = 2, 4


def _widget_names(inputs: dict[str, Any]) -> list[str]:
    """Names of a node's widgets in order, with the front end's extra one after a seed."""
    names: list[str] = []
    for group in ("required", "optional"):
        for name, spec in inputs.get(group, {}).items():
            kind, options = spec[0], spec[1] if len(spec) > 1 else {}
            if (isinstance(kind, list) or kind in PRIMITIVES) and not options.get("forceInput"):
                names.append(name)
                if options.get("control_after_generate"):
                    names.append("")
    return names


Source = tuple[str, int]
"""A node's id in the prompt and the number of its output."""
INPUT_SIDE, OUTPUT_SIDE = -10, -20


class _Level:
    """One graph of a workflow: the root, or the inside of a subgraph node."""

    def __init__(self, graph: dict[str, Any], subgraphs: dict[str, Any], prefix: str, inputs: list[Any]) -> None:
        self.nodes = {node["id"]: node for node in graph["nodes"]}
        fields = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
        as_dict = [link if isinstance(link, dict) else dict(zip(fields, link, strict=False)) for link in graph["links"]]
        self.links = {link["id"]: link for link in as_dict}
        self.subgraphs, self.prefix, self.inputs = subgraphs, prefix, inputs
        self.inner: dict[int, _Level] = {}

    def source(self, link_id: int) -> Source | None:
        """What a link brings, through any number of subgraphs; None if that input is not connected outside."""
        link = self.links[link_id]
        if link["origin_id"] == INPUT_SIDE:
            return self.inputs[link["origin_slot"]]
        node = self.nodes[link["origin_id"]]
        if node["type"] not in self.subgraphs:
            return f"{self.prefix}{node['id']}", link["origin_slot"]
        inner = self.enter(node)
        for other in inner.links.values():
            if (other["target_id"], other["target_slot"]) == (OUTPUT_SIDE, link["origin_slot"]):
                return inner.source(other["id"])
        return None

    def enter(self, node: dict[str, Any]) -> _Level:
        """The inside of a subgraph node."""
        if node["id"] not in self.inner:
            inputs = [None if slot.get("link") is None else self.source(slot["link"]) for slot in node["inputs"]]
            prefix = f"{self.prefix}{node['id']}:"
            self.inner[node["id"]] = _Level(self.subgraphs[node["type"]], self.subgraphs, prefix, inputs)
        return self.inner[node["id"]]


def to_prompt(workflow: dict[str, Any], object_info: dict[str, Any]) -> dict[str, Any]:
    """Convert a workflow; the nodes inside subgraphs get ids like `20:5`, as the front end names them.

    Args:
        workflow: parsed workflow JSON.
        object_info: the server's `/object_info`.

    Raises:
        KeyError: a node type the server does not know.
    """
    subgraphs = {graph["id"]: graph for graph in workflow.get("definitions", {}).get("subgraphs", [])}
    prompt: dict[str, Any] = {}
    waiting = [_Level(workflow, subgraphs, "", [])]
    while waiting:
        level = waiting.pop()
        for node in level.nodes.values():
            if node["type"] in NOT_RUN or node.get("mode", 0) in (MUTED, BYPASSED):
                continue
            if node["type"] in subgraphs:
                waiting.append(level.enter(node))
                continue
            names = _widget_names(object_info[node["type"]]["input"])
            values = node.get("widgets_values", [])
            inputs = {name: value for name, value in zip(names, values, strict=True) if name}
            for slot in node.get("inputs", []):
                source = None if slot.get("link") is None else level.source(slot["link"])
                if source:
                    inputs[slot["name"]] = list(source)
            prompt[f"{level.prefix}{node['id']}"] = {
                "class_type": node["type"],
                "inputs": inputs,
                "_meta": {"title": node.get("title", "")},
            }
    return prompt


def preview_output(prompt: dict[str, Any], class_type: str, output: int = 0) -> str:
    """Add a Preview Image to an output of the first node of a type. Returns the preview's id."""
    source = next(key for key, node in prompt.items() if node["class_type"] == class_type)
    name = f"preview-{source}-{output}"
    prompt[name] = {"class_type": "PreviewImage", "inputs": {"images": [source, output]}, "_meta": {"title": ""}}
    return name
