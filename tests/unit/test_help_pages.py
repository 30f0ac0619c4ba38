"""The pictures of the help pages exist, are small, and are all in use."""

from __future__ import annotations

import json
import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "js" / "docs"


def test_pictures_of_the_help_pages() -> None:
    linked = {
        link
        for page in DOCS.glob("*.md")
        for link in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    }
    present = {f"images/{path.name}" for path in (DOCS / "images").iterdir()}
    assert linked == present
    assert all((DOCS / name).stat().st_size < 60_000 for name in present)


def test_every_page_has_a_chinese_one_that_names_every_input_and_output() -> None:
    root = DOCS.parents[1]
    nodes = json.loads((root / "locales" / "zh" / "nodeDefs.json").read_text(encoding="utf-8"))
    assert {page.stem for page in DOCS.glob("*.md")} == {page.parent.name for page in DOCS.glob("*/zh.md")} == {*nodes}
    for name, node in nodes.items():
        page = (DOCS / name / "zh.md").read_text(encoding="utf-8")
        assert page.startswith(f"# {node['display_name']}\n")
        rows = re.findall(r"^\| (.+?) \|", page, re.M)
        for entry, texts in node.get("inputs", {}).items():
            assert {f"{texts['name']} ({entry})", entry} & {*rows}, (name, entry)
        assert {texts["name"] for texts in node.get("outputs", {}).values()} <= {*rows}, name
        pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page)
        assert pictures == re.findall(r"!\[[^\]]+\]\(([^)]+)\)", (DOCS / f"{name}.md").read_text(encoding="utf-8"))
