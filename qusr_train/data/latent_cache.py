"""Latents of fixed crops, computed once: the frozen VAE would give the same at every epoch."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from ..errors import InputError
from ..files import write_whole
from ..images.check import ImageError
from ..model.stable_diffusion import StableDiffusion
from .pairs import PairPatches

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Processes:
    """The processes of a launch that share a cache folder."""

    rank: int = 0
    count: int = 1
    wait: Callable[[], None] = lambda: None
    """Returns once all processes have called it."""

    @classmethod
    def of_launch(cls) -> Processes:
        """accelerate's."""
        from accelerate import PartialState

        state = PartialState()
        return cls(state.process_index, state.num_processes, state.wait_for_everyone)


def fill(
    folder: Path, pairs: PairPatches, base: StableDiffusion, model: Path, processes: Processes | None = None
) -> None:
    """Encode every input of a data set that is not in the cache yet, and make the data set read it.

    Each process encodes its share. A file holds `moments` (2, 4, h, w), float16: mean and standard deviation of
    the unscaled latent. What was encoded before a stop is kept; a cache of other pairs or another model is refused.

    Raises:
        InputError: the folder belongs to other pairs or another model.
    """
    from tqdm.auto import tqdm

    processes = processes or Processes()
    identity = json.dumps({"pairs": _fingerprint(pairs), "model": str(model)})
    record = folder / "cache.json"
    if record.is_file() and record.read_text(encoding="utf-8") != identity:
        raise InputError(f"{folder}: is a cache of other pairs or another model; delete it or use another folder")
    processes.wait()  # all have looked before one writes
    if processes.rank == 0:
        with write_whole(record) as temporary:
            temporary.write_text(identity, encoding="utf-8")
    device = next(base.vae.parameters()).device
    mine = pairs.stems[processes.rank :: processes.count]
    missing = [stem for stem in mine if not (folder / f"{stem}.safetensors").is_file()]
    for stem in tqdm(missing, unit="image", desc="encoding", disable=not missing):
        try:
            x_lq = pairs.input(stem)
        except ImageError as error:
            log.warning("%s: left out (%s)", stem, error)
            continue
        with torch.no_grad():
            moments = torch.cat(base.moments(x_lq[None].to(device)))
        with write_whole(folder / f"{stem}.safetensors") as temporary:
            save_file({"moments": moments.half().cpu().contiguous()}, temporary)
    processes.wait()
    # The same on every process: what could not be read has no file.
    pairs.stems = [stem for stem in pairs.stems if (folder / f"{stem}.safetensors").is_file()]
    pairs.cache = folder


def _fingerprint(pairs: PairPatches) -> str:
    """Names and sizes of the input files: cheap, and different when they were made anew with other settings."""
    content = [(stem, pairs.pairs[stem][0].stat().st_size) for stem in pairs.stems]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
