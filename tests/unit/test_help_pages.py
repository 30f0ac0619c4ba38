"""The pictures of the help pages exist, are small, and are all in use."""

from __future__ import annotations

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
