"""What the viewer and the comparer in the browser load: pictures and true values, in ComfyUI's temp folder."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import folder_paths
import numpy as np
import torch
from comfy_execution.utils import get_executing_context
from torch import Tensor
from torch.nn import functional as F

from ...qusr_train.files import write_whole
from ...qusr_train.images.heatmap import COLOR_STOPS, value_range
from ...qusr_train.images.write import QUICK, png_bytes
from ...qusr_train.model.noise import noise_sigma
from .comfy_types import ShownFile
from .host import match_batch
from .noise import AdaptiveNoise
from .sockets import Uncertainty

SUBFOLDER = "qusr"
CHANNEL_FILES_LIMIT = 32_000_000  # map pixels; above, the browser gets the mean only: three more planes fill the disk
ESTIMATE_BLOCK = 4  # pixels; the grid of estimated noise is that much coarser than the map


RUNS_KEPT = 8  # of each node: what an open tab may still show
_runs: dict[str, deque[frozenset[str]]] = {}
"""Names of the files of each node's newest runs. ComfyUI empties the folder at its start, and so is this."""


def _keep(content: bytes, suffix: str) -> dict[str, str]:
    """Store a file under its content's hash, so that the same one is stored once. Returns how `/view` is asked."""
    folder = Path(folder_paths.get_temp_directory()) / SUBFOLDER
    name = hashlib.sha256(content).hexdigest()[:32] + suffix
    if not (folder / name).is_file():
        with write_whole(folder / name) as temporary:
            temporary.write_bytes(content)
    # A browser trusts a file that is old without asking again, and would show one that is gone by now.
    os.utime(folder / name)
    return {"filename": name, "subfolder": SUBFOLDER, "type": "temp"}


def forget_old_runs(shown: object) -> None:
    """Keep the files of a node's newest runs only.

    Args:
        shown: what this run shows, with addresses of its files anywhere inside.
    """
    context = get_executing_context()
    node = context.node_id if context else ""
    before = set().union(*(names for runs in _runs.values() for names in runs))
    _runs.setdefault(node, deque(maxlen=RUNS_KEPT)).append(frozenset(_names(shown)))
    after = set().union(*(names for runs in _runs.values() for names in runs))
    for name in before - after:
        with contextlib.suppress(OSError):  # a browser may be reading it
            (Path(folder_paths.get_temp_directory()) / SUBFOLDER / name).unlink(missing_ok=True)


def _names(shown: object) -> Iterator[str]:
    if isinstance(shown, dict):
        if shown.get("subfolder") == SUBFOLDER:
            yield shown["filename"]
        for value in shown.values():
            yield from _names(value)
    elif isinstance(shown, list):
        for value in shown:
            yield from _names(value)


def save_picture(image: Tensor) -> ShownFile:
    """Save one picture (3, H, W) in [0, 1] as PNG. Returns its `/view` address with width and height."""
    address = _keep(png_bytes(image, QUICK), ".png")
    return {**address, "width": image.shape[-1], "height": image.shape[-2]}


def save_values(values: Tensor) -> ShownFile:
    """Save one plane of numbers (H, W) for the browser, true to half precision.

    The file holds value / scale as little-endian float16, row by row, where scale is the largest magnitude: no value
    overflows, and the relative error is at most 2^-11 for values down to 6e-5 of the largest.

    Returns:
        Its `/view` address with width, height and scale.
    """
    scale = float(values.abs().max()) or 1.0
    halves = (values.double() / scale).to(torch.float16).cpu().numpy()
    address = _keep(halves.astype(np.dtype("<f2"), copy=False).tobytes(), ".f16")
    return {**address, "width": values.shape[-1], "height": values.shape[-2], "scale": scale}


def _plane(values: Tensor) -> ShownFile:
    """The ends of the colour scale of one plane over the whole batch, and a file for each image.

    Args:
        values: (B, H, W).
    """
    low, high = value_range(values, "auto")
    ranges = {
        "auto": [min(low, float(values.min())), high],
        "percentile": list(value_range(values, "percentile")),
    }
    return {"ranges": ranges, "files": [save_values(image) for image in values]}


def _noise_grid(uncertainty: Uncertainty, noise: AdaptiveNoise | None) -> tuple[Tensor, Tensor]:
    """Noise scale and injected noise per cell, both (B, h, w), as root mean squares over the channels.

    With a NOISE these are the values that go into the latent. Without one they are an estimate: the formula applied to
    the map itself instead of its encoding, and the expected magnitude sigma * p.
    """
    batch = uncertainty.map.shape[0]
    if noise is None:
        squared = noise_sigma(uncertainty.map * uncertainty.latent_scale, uncertainty.noise).square()
        sigma = F.avg_pool2d(squared.mean(1, keepdim=True), ESTIMATE_BLOCK, ceil_mode=True)[:, 0].sqrt()
        return sigma, sigma * uncertainty.noise.p
    scale = match_batch(noise.sigma, batch, "noise", "uncertainty")
    injected = noise.generate_noise({"samples": torch.zeros_like(scale)})
    return scale.square().mean(1).sqrt(), injected.float().square().mean(1).sqrt()


def uncertainty_files(uncertainty: Uncertainty, photo: Tensor | None, noise: AdaptiveNoise | None) -> ShownFile:
    """Everything the viewer shows for one batch.

    Args:
        uncertainty: the map.
        photo: (B, 3, H, W) in [0, 1] at the map's size.
        noise: what is injected; without it an estimate is made.
    """
    planes = {"mean": _plane(uncertainty.values)}
    batch, _, height, width = uncertainty.map.shape
    # A map with a unit is one plane: what its channels mean alone was not measured.
    if not uncertainty.unit and batch * height * width <= CHANNEL_FILES_LIMIT:
        planes |= {name: _plane(uncertainty.map[:, c]) for c, name in enumerate(("red", "green", "blue"))}
    sigma, injected = _noise_grid(uncertainty, noise)
    shown = {
        "planes": planes,
        "unit": uncertainty.unit,
        "photos": [] if photo is None else [save_picture(image) for image in photo],
        "sigma": [save_values(image) for image in sigma],
        "injected": [save_values(image) for image in injected],
        "noise_connected": noise is not None,
        "colormaps": COLOR_STOPS,
    }
    forget_old_runs(shown)
    return shown
