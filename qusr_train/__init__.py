"""QUSR: one-step diffusion super-resolution with a quality prompt and uncertainty-guided noise (arXiv 2603.09125).

    from qusr_train import Restorer, read_image, write_png

    restored = Restorer()(read_image("photo.jpg").rgb)
    write_png("large.png", restored.image[0])

Nothing here imports ComfyUI. The formulas are in `model/noise.py` (equations 1-7) and `model/uncertainty.py` (the
UEM), the bundled model in `model/nano.py`; `python -m qusr_train --help` lists the commands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoints.load import load_checkpoint
    from .checkpoints.nano_file import load_nano
    from .errors import QUSRError
    from .evaluation.evaluate import evaluate_folders as evaluate
    from .images.read import read_image
    from .images.write import write_png
    from .model.noise import NoiseParameters, guided_step
    from .model.uncertainty import UEM
    from .restore import Restored, Restorer
    from .training.config import TrainConfig
    from .training.loop import train

__all__ = [
    "UEM",
    "NoiseParameters",
    "QUSRError",
    "Restored",
    "Restorer",
    "TrainConfig",
    "__version__",
    "evaluate",
    "guided_step",
    "load_checkpoint",
    "load_nano",
    "read_image",
    "train",
    "write_png",
]

_PLACES = {
    "UEM": ("model.uncertainty", "UEM"),
    "NoiseParameters": ("model.noise", "NoiseParameters"),
    "QUSRError": ("errors", "QUSRError"),
    "Restored": ("restore", "Restored"),
    "Restorer": ("restore", "Restorer"),
    "TrainConfig": ("training.config", "TrainConfig"),
    "evaluate": ("evaluation.evaluate", "evaluate_folders"),
    "guided_step": ("model.noise", "guided_step"),
    "load_checkpoint": ("checkpoints.load", "load_checkpoint"),
    "load_nano": ("checkpoints.nano_file", "load_nano"),
    "read_image": ("images.read", "read_image"),
    "train": ("training.loop", "train"),
    "write_png": ("images.write", "write_png"),
}


def __getattr__(name: str) -> Any:
    """Import what is asked for only then: ComfyUI and the command line start without torch's training stack."""
    import importlib

    if name == "__version__":
        value: Any = _version()
    elif name in _PLACES:
        module, attribute = _PLACES[name]
        value = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    """From pyproject.toml, beside the package in a clone; from the installed package's metadata otherwise."""
    import importlib.metadata
    import re
    from pathlib import Path

    project = Path(__file__).resolve().parents[1] / "pyproject.toml"
    if project.is_file():
        found = re.search(r'^name = "qusr"$.*?^version = "([^"]+)"$', project.read_text("utf-8"), re.M | re.S)
        if found:
            return found[1]
    return importlib.metadata.version("qusr")
