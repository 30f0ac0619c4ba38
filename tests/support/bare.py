"""A Python with only the packages that ComfyUI brings: `python tests/support/bare.py -m MODULE` or `SCRIPT`.

The packages in `HIDDEN` are not found, as if they were not installed; other libraries then do without them, too.
"""

from __future__ import annotations

import runpy
import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

HIDDEN = ("accelerate", "bitsandbytes", "diffusers", "lpips", "peft", "pyiqa", "tensorboard", "wandb")


class _Bare(PathFinder):
    @classmethod
    def find_spec(cls, fullname: str, *rest: Any, **more: Any) -> ModuleSpec | None:
        return None if fullname.partition(".")[0] in HIDDEN else super().find_spec(fullname, *rest, **more)


def main() -> None:
    sys.meta_path = [_Bare if finder is PathFinder else finder for finder in sys.meta_path]
    as_module = sys.argv[1] == "-m"
    target, sys.argv = sys.argv[1 + as_module], sys.argv[1 + as_module :]
    if as_module:
        sys.path[0] = str(Path.cwd())
        runpy.run_module(target, run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(target).resolve().parent)
        runpy.run_path(target, run_name="__main__")


if __name__ == "__main__":
    main()
