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


def to_prompt(workflow: dict[str, Any], object_info: dict[str, Any]) -> dict[str, Any]:
    """Convert a workflow without subgraphs.

    Args:
        workflow: parsed workflow JSON.
        object_info: the server's `/object_info`.

    Raises:
        KeyError: a node type the server does not know.
    """
    links = {link[0]: (str(link[1]), link[2]) for link in workflow["links"]}
    prompt: dict[str, Any] = {}
    for node in workflow["nodes"]:
        if node["type"] in NOT_RUN or node.get("mode", 0) in (MUTED, BYPASSED):
            continue
        names = _widget_names(object_info[node["type"]]["input"])
        values = node.get("widgets_values", [])
        inputs = {name: value for name, value in zip(names, values, strict=True) if name}
        for slot in node.get("inputs", []):
            if slot.get("link") is not None:
                source, index = links[slot["link"]]
                inputs[slot["name"]] = [source, index]
        prompt[str(node["id"])] = {
            "class_type": node["type"],
            "inputs": inputs,
            "_meta": {"title": node.get("title", "")},
        }
    return prompt
