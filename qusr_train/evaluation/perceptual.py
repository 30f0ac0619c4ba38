"""The paper's other metrics through pyiqa, an optional extra (`pip install pyiqa`).

Each needs trained weights that no package registry carries. Nothing is downloaded unless it is
asked for: a metric whose files are absent is named with what is missing, and left out.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import InputError
from ..packages import is_installed, pip_command


@dataclass(frozen=True)
class Metric:
    """One metric of the paper's tables."""

    higher_is_better: bool
    reads_truth: bool
    """Compares with the ground truth; otherwise it looks at the prediction alone."""
    files: tuple[str, ...] = ()
    """Weights it needs, below torch's hub folder, as pyiqa 0.1.16 names them."""
    folders: bool = False
    """Compares two whole folders: one value for a set, none for an image."""


PYIQA_METRICS: dict[str, Metric] = {
    "lpips": Metric(False, True, ("pyiqa/LPIPS_v0.1_alex-df73285e.pth", "checkpoints/alexnet-owt-7be5be79.pth")),
    "dists": Metric(False, True, ("pyiqa/DISTS_weights-f5e65c96.pth", "checkpoints/vgg16-397923af.pth")),
    "fid": Metric(False, True, ("pyiqa/pt_inception-2015-12-05-6726825d.pth",), folders=True),
    "niqe": Metric(False, False, ("pyiqa/niqe_modelparameters.mat",)),
    "clipiqa": Metric(True, False, ("clip/RN50.pt",)),
    "musiq": Metric(True, False, ("pyiqa/musiq_koniq_ckpt-e95806b9.pth",)),
    "maniqa": Metric(True, False, ("pyiqa/ckpt_koniq10k.pt", "checkpoints/vit_base_patch8_224")),
}


class MissingWeights(InputError):
    """A metric that cannot be computed here; the message says which file is absent."""


def hub_folder() -> Path:
    """Where torch and pyiqa keep downloaded weights (set TORCH_HOME to move it)."""
    return Path(torch.hub.get_dir())


def missing_files(name: str) -> list[str]:
    """The weight files of a metric that are not in the hub folder."""
    return [file for file in PYIQA_METRICS[name].files if not (hub_folder() / file).exists()]


def _niqe_parameters(path: Path, folder: Path) -> Path:
    """pyiqa reads MATLAB's format; basicsr publishes the same two arrays as .npz."""
    from scipy.io import savemat

    if not path.is_file():
        raise InputError(
            "not found; give niqe_modelparameters.mat or basicsr's niqe_pris_params.npz", field="niqe", value=path
        )
    if path.suffix != ".npz":
        return path
    with np.load(path) as arrays:
        if not {"mu_pris_param", "cov_pris_param"} <= set(arrays):
            raise InputError("expected the arrays mu_pris_param and cov_pris_param", field="niqe", value=path)
        target = folder / "niqe_modelparameters.mat"
        savemat(target, {"mu_prisparam": arrays["mu_pris_param"], "cov_prisparam": arrays["cov_pris_param"]})
    return target


def create(name: str, device: str = "cpu", download: bool = False, niqe: Path | None = None) -> Callable[..., Any]:
    """A pyiqa metric, ready to call.

    Args:
        name: one of `PYIQA_METRICS`.
        device: torch device.
        download: let pyiqa fetch absent weights.
        niqe: file with NIQE's natural-scene parameters (.mat, or basicsr's .npz).

    Raises:
        MissingWeights: pyiqa or a weight file is absent.
    """
    if not is_installed("pyiqa"):
        raise MissingWeights(f"pyiqa is not installed; {pip_command('pyiqa')}")
    given = name == "niqe" and niqe is not None
    absent = [] if given or download else missing_files(name)
    if absent:
        raise MissingWeights(f"{', '.join(absent)} not in {hub_folder()}; put it there, or allow the download")
    import pyiqa

    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {}
        if given:
            assert niqe is not None
            options["pretrained_model_path"] = str(_niqe_parameters(niqe, Path(folder)))
        try:
            return pyiqa.create_metric(name, device=torch.device(device), **options)
        except (OSError, RuntimeError) as error:  # a download that failed, or a damaged file
            raise MissingWeights(f"{name}: its weights could not be loaded ({error})") from error
