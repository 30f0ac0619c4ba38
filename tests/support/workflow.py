"""Turn a saved workflow (the front end's format) into a prompt (the server's format)."""

from __future__ import annotations

from collections import deque
from typing import Any

PRIMITIVES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
NOT_RUN = ("Note", "MarkdownNote")
DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"
MUTED, BYPASSED = 2, 4


def _default(kind: Any, options: dict[str, Any]) -> Any:
    """What the front end puts into a widget that a saved workflow has no value for."""
    choices = kind if isinstance(kind, list) else options.get("options", [])
    first = next(iter(choices), None)
    return options.get("default", first["key"] if kind == DYNAMIC_COMBO and first else first)


def _settings(inputs: dict[str, Any], saved: deque[Any], missing: list[str], prefix: str = "") -> dict[str, Any]:
    """A node's widgets as inputs of the prompt.

    The front end adds a widget after a seed, and those of a dynamic combo's chosen option after the combo.

    Args:
        inputs: the node's inputs, or those of an option, as the server describes them.
        saved: the values of its widgets in order; those that are used are taken away.
        missing: gets the names of the required ones that are left without a value; they keep their defaults, as the
            optional ones do.
        prefix: of the option's inputs.
    """
    settings: dict[str, Any] = {}
    for group in ("required", "optional"):
        for name, spec in inputs.get(group, {}).items():
            kind, options = spec[0], spec[1] if len(spec) > 1 else {}
            is_widget = isinstance(kind, list) or kind in (*PRIMITIVES, DYNAMIC_COMBO)
            if not is_widget or options.get("forceInput"):
                continue
            if not saved and group == "required":
                missing.append(prefix + name)
            value = settings[prefix + name] = saved.popleft() if saved else _default(kind, options)
            if options.get("control_after_generate") and saved:
                saved.popleft()
            if kind == DYNAMIC_COMBO:
                option = next(option for option in options["options"] if option["key"] == value)
                settings |= _settings(option["inputs"], saved, missing, f"{prefix}{name}.")
    return settings


def _checked_settings(node: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
    """Like `_settings`. ComfyUI's own nodes may have changed since it was saved, ours only gain optional inputs.

    Raises:
        ValueError: a node of this extension has fewer values than required widgets, or more than widgets.
    """
    saved, missing = deque(node.get("widgets_values", [])), list[str]()
    settings = _settings(inputs, saved, missing)
    if node["type"].startswith("QUSR") and (saved or missing):
        raise ValueError(f"{node['type']}: no value saved for {missing}, or too many: {list(saved)}")
    return settings


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
        ValueError: saved values that do not match a node's widgets.
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
            inputs = _checked_settings(node, object_info[node["type"]]["input"])
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
