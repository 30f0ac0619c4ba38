"""Chinese names and tooltips: every node, input and output has them, and nothing is left of what is gone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TRANSLATED = ("display_name", "description")


def _wanted(pack: Any) -> set[str]:
    """Every text of the schemas, as a path in nodeDefs.json."""
    paths = set()
    for cls in pack.nodes.NODES:
        schema = cls.GET_SCHEMA()
        paths |= {f"{schema.node_id}.{key}" for key in TRANSLATED}
        for entry in schema.inputs:
            paths |= {f"{schema.node_id}.inputs.{entry.id}.{key}" for key in ("name", "tooltip")}
        for number, entry in enumerate(schema.outputs):
            keys = ("name", "tooltip") if entry.tooltip else ("name",)
            paths |= {f"{schema.node_id}.outputs.{number}.{key}" for key in keys}
    return paths


def _paths(tree: dict[str, Any], above: str = "") -> dict[str, str]:
    found = {}
    for key, value in tree.items():
        path = f"{above}{key}"
        found |= _paths(value, f"{path}.") if isinstance(value, dict) else {path: value}
    return found


def test_chinese_covers_every_node_input_and_output(pack: Any) -> None:
    texts = _paths(json.loads((ROOT / "locales" / "zh" / "nodeDefs.json").read_text(encoding="utf-8")))
    wanted = _wanted(pack)
    assert sorted(wanted - texts.keys()) == [], "locales/zh/nodeDefs.json lacks these"
    assert sorted(texts.keys() - wanted) == [], "locales/zh/nodeDefs.json has these, the nodes do not"
    assert [path for path, text in texts.items() if not text.strip()] == []
