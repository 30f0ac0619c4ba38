"""The nodes inside a real ComfyUI, as in tests/nodes, with ComfyUI's folders in a place of the test's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.nodes.conftest import core, nano, node, pack, photo

__all__ = ["core", "nano", "node", "pack", "photo"]


@pytest.fixture
def folders(pack: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that holds ComfyUI's own (input, output, models, user, temp) and beside them `victim`."""
    import folder_paths

    for name in ("input", "output", "models/qusr", "user", "temp", "victim"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("input", "output", "user", "temp"):
        monkeypatch.setattr(folder_paths, f"get_{name}_directory", lambda where=tmp_path / name: str(where))
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "models"))
    _, suffixes = folder_paths.folder_names_and_paths["qusr"]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "qusr", ([str(tmp_path / "models" / "qusr")], suffixes))
    (tmp_path / "victim" / "secret.txt").write_text("secret", encoding="utf-8")
    return tmp_path
