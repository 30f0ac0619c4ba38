"""Latents of fixed crops, computed once: the frozen VAE would give the same at every epoch."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import torch
from safetensors.torch import save_file

from ..errors import InputError
from ..files import write_whole
from ..images.check import ImageError
from ..model.stable_diffusion import StableDiffusion
from .pairs import PairPatches

log = logging.getLogger(__name__)


def fill(folder: Path, pairs: PairPatches, base: StableDiffusion, model: Path) -> None:
    """Encode every input of a data set that is not in the cache yet, and make the data set read it.

    A file holds `moments` (2, 4, h, w), float16: mean and standard deviation of the unscaled latent. What
    was encoded before a stop is kept; a cache of other pairs or another model is refused.

    Raises:
        ValueError: the folder belongs to other pairs or another model.
    """
    from tqdm.auto import tqdm

    identity = json.dumps({"pairs": _fingerprint(pairs), "model": str(model)})
    record = folder / "cache.json"
    if record.is_file() and record.read_text(encoding="utf-8") != identity:
        raise InputError(f"{folder}: is a cache of other pairs or another model; delete it or use another folder")
    with write_whole(record) as temporary:
        temporary.write_text(identity, encoding="utf-8")
    device = next(base.vae.parameters()).device
    missing = [stem for stem in pairs.stems if not (folder / f"{stem}.safetensors").is_file()]
    for stem in tqdm(missing, unit="image", desc="encoding", disable=not missing):
        try:
            x_lq = pairs.input(stem)
        except ImageError as error:
            log.warning("%s: left out (%s)", stem, error)
            pairs.stems.remove(stem)
            continue
        with torch.no_grad():
            moments = torch.cat(base.moments(x_lq[None].to(device)))
        with write_whole(folder / f"{stem}.safetensors") as temporary:
            save_file({"moments": moments.half().cpu().contiguous()}, temporary)
    pairs.cache = folder


def _fingerprint(pairs: PairPatches) -> str:
    """Names and sizes of the input files: cheap, and different when they were made anew with other settings."""
    content = [(stem, pairs.pairs[stem][0].stat().st_size) for stem in pairs.stems]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
