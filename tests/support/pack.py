"""ComfyUI and the extension in this process, the extension as ComfyUI loads it."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

from .comfyui import ROOT, comfyui_path


def import_comfyui(cpu: bool) -> None:
    """Put ComfyUI on the path and set its device.

    First on the path: its `nodes` and `utils` must win over the extension's own folder names.
    """
    sys.path.insert(0, str(comfyui_path()))
    import comfy.cli_args
    import utils.extra_config  # noqa: F401  # as main.py does, before a folder with another `utils` is on the path

    comfy.cli_args.args.cpu = cpu


def import_pack() -> ModuleType:
    """The extension under a foreign name with relative imports, once in a process; after `import_comfyui`."""
    if "qusr_pack" in sys.modules:
        return sys.modules["qusr_pack"]
    spec = importlib.util.spec_from_file_location(
        "qusr_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None
    assert spec.loader is not None
    pack = importlib.util.module_from_spec(spec)
    sys.modules["qusr_pack"] = pack
    spec.loader.exec_module(pack)
    return pack
