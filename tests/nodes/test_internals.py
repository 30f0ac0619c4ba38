"""What the nodes use of ComfyUI beyond its node API: all of it is listed, and all of it is there."""

from __future__ import annotations

import ast
import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import golden

NODES = Path(__file__).resolve().parents[2] / "nodes"
SOURCES = [path for path in sorted(NODES.rglob("*.py")) if path.name != "internals.py"]
COMFYUI = ("comfy", "comfy_execution", "execution", "folder_paths", "latent_preview", "node_helpers", "server")


@pytest.fixture(scope="module")
def internals(pack: Any) -> Any:
    return pack.nodes.native.internals


def test_this_comfyui_has_every_module_attribute(internals: Any) -> None:
    assert internals.missing() == []


@pytest.mark.parametrize("kind", ["MODEL", "CLIP", "VAE", "AutoencoderKL"])
def test_this_comfyui_has_every_object_attribute(internals: Any, kind: str) -> None:
    if kind == "MODEL":
        given = golden.golden_unet()
    elif kind == "CLIP":
        given = golden.golden_clip()
    else:
        vae = golden.golden_vae()
        given = vae if kind == "VAE" else vae.first_stage_model
    assert [path for path in internals.OBJECTS[kind] if internals.lacks(given, path)] == []


def _dotted(node: ast.AST) -> str | None:
    """`a.b.c` of an attribute of a name, else None."""
    if isinstance(node, ast.Attribute):
        above = _dotted(node.value)
        return above and f"{above}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else None


def _names(tree: ast.AST) -> dict[str, str]:
    """What the imports of a file, and plain assignments of what was imported, call ComfyUI's modules."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {one.asname or one.name.split(".")[0]: one.name if one.asname else one.name.split(".")[0]
                      for one in node.names if one.name.split(".")[0] in COMFYUI}  # fmt: skip
        elif isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] in COMFYUI:
            names |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            first, _, rest = (_dotted(node.value) or "").partition(".")
            if first in names and rest:
                names[node.targets[0].id] = f"{names[first]}.{rest}"
    return names


def _uses(source: Path) -> Iterator[str]:
    """Full names of what a file takes from ComfyUI's modules."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    names = _names(tree)
    for node in ast.walk(tree):
        dotted = _dotted(node)
        if isinstance(node, ast.Call) and _dotted(node.func) == "getattr":
            owner, attribute = _dotted(node.args[0]), node.args[1]
            dotted = f"{owner}.{attribute.value}" if owner and isinstance(attribute, ast.Constant) else None
        first, _, rest = (dotted or "").partition(".")
        if first in names and (rest or names[first].split(".")[-1][0].isupper()):
            yield f"{names[first]}.{rest}".rstrip(".")


def test_everything_used_of_comfyuis_modules_is_listed(internals: Any) -> None:
    listed = {f"{module}.{path}" for module, paths in internals.MODULES.items() for path in paths} | {
        *internals.OPTIONAL
    }

    def covered(name: str) -> bool:
        """Listed, on the way to what is listed ("comfy.utils"), or found on it ("models_dir.rstrip")."""
        return any(f"{one}.".startswith(f"{name}.") or name.startswith(f"{one}.") for one in listed)

    used = {(source.name, name.replace(".instance", "")) for source in SOURCES for name in _uses(source)}
    assert len(used) > 50, "the search finds what the nodes use"
    assert sorted(entry for entry in used if not covered(entry[1])) == []


def test_nothing_is_listed_that_is_not_used(internals: Any) -> None:
    words = set(re.findall(r"\w+", "\n".join(source.read_text(encoding="utf-8") for source in SOURCES)))
    paths = [path for group in (internals.MODULES, internals.OBJECTS) for some in group.values() for path in some]
    named = {name for path in (*paths, *internals.OPTIONAL) for name in path.split(".") if not name.isdecimal()}
    assert named - words == set()


def test_what_is_gone_is_said_at_start(
    pack: Any, internals: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    extension = asyncio.run(pack.comfy_entrypoint())
    asyncio.run(extension.on_load())
    assert caplog.text == ""
    monkeypatch.setitem(internals.MODULES, "comfy.utils", ("ProgressBar", "not_there"))
    monkeypatch.setitem(internals.MODULES, "comfy.moved_away", ("anything",))
    asyncio.run(extension.on_load())
    assert "this ComfyUI lacks comfy.utils.not_there, comfy.moved_away" in caplog.text
