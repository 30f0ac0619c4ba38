"""Write degraded pairs to a folder once, so that training reads fixed crops (and can cache their latents)."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Subset

from ..errors import InputError
from ..files import write_whole
from ..images.write import write_png
from .camera import Degraded
from .degradation import degradation
from .photo_files import FilePatches

log = logging.getLogger(__name__)

SETTINGS = "dataset.json"


def _first(batch: list[Degraded]) -> Degraded:
    return batch[0]


def pregenerate(
    photos: Path, out: Path, count: int, *, patch: int = 512, seed: int = 1, kind: str = "second_order",
    sharpen_targets: bool = False, factors: tuple[float, ...] = (1.0,), workers: int = 0,
) -> int:  # fmt: skip
    """Make pairs OUT/lr/NUMBER.png (a quarter of the size) and OUT/hr/NUMBER.png.

    Pair i depends on the seed and i alone, so a run that was stopped goes on where it stopped, and a
    larger `count` adds to what is there.

    Returns:
        How many pairs were written now.

    Raises:
        ValueError: no usable photo, or OUT holds pairs of other settings.
    """
    from tqdm.auto import tqdm

    if count < 1:
        raise InputError(f"must be at least 1, but got {count}", field="count")
    settings: dict[str, Any] = {
        "patch": patch, "seed": seed, "degradation": kind, "sharpen_targets": sharpen_targets,
        "photo_factors": list(factors),
    }  # fmt: skip
    record = out / SETTINGS
    if record.is_file() and json.loads(record.read_text(encoding="utf-8")) != settings:
        raise InputError(f"{out}: holds pairs of other settings (see {SETTINGS}); use another folder")
    patches = FilePatches(photos, patch, count, seed, degradation(kind, sharpen_targets), factors)
    with write_whole(record) as temporary:
        temporary.write_text(json.dumps(settings, indent=1), encoding="utf-8")
    missing = [i for i in range(count) if not all((out / part / f"{i:08d}.png").is_file() for part in ("lr", "hr"))]
    loader = DataLoader(Subset(patches, missing), batch_size=1, num_workers=workers, collate_fn=_first)
    for number, pair in tqdm(zip(missing, loader, strict=True), total=len(missing), unit="pair"):
        for part, image in (("lr", pair.lr), ("hr", pair.hr)):
            write_png(out / part / f"{number:08d}.png", image[0])
    return len(missing)
