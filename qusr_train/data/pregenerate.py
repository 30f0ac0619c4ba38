"""Write degraded pairs to a folder once, so that training reads fixed crops (and can cache their latents)."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset

from ..captions import measured as quality
from ..errors import InputError
from ..files import write_whole
from ..images.write import png_bytes, write_png
from .camera_pairs import CameraPairs, load_camera_pairs
from .degradation import degradation
from .degraded import Degraded
from .mixed import Mixed
from .photo_files import FilePatches
from .photos import PhotoPatches, load_photos
from .pregenerated import RECORDS, Record, read_records

log = logging.getLogger(__name__)

SETTINGS = "dataset.json"


@dataclass(frozen=True)
class _Files:
    """A pair as it is written."""

    lr: bytes
    hr: bytes
    record: Record


class _Encoded(Dataset[_Files]):
    """Pairs as files: all the work of a pair is done where it is made, so that processes share it."""

    def __init__(self, pairs: Dataset[Degraded], names: list[str]) -> None:
        self.pairs, self.names = pairs, names

    def __getitem__(self, number: int) -> _Files:
        pair = self.pairs[number]
        record = Record(self.names[number], quality.measure_quality(pair.lr)[0], pair.applied)
        return _Files(png_bytes(pair.lr[0]), png_bytes(pair.hr[0]), record)


def _first(batch: list[_Files]) -> _Files:
    return batch[0]


@dataclass(frozen=True)
class Pregeneration:
    """What to make; a folder holds pairs of one such setting only."""

    photos: Path
    """Folder of sharp photos."""
    patch: int = 512
    """Side of the targets in pixels."""
    seed: int = 1
    degradation: str = "second_order"
    sharpen_targets: bool = False
    """Unsharp-mask the targets (second_order)."""
    photo_factors: tuple[float, ...] = (1.0,)
    """Sizes to use photos at."""
    degradation_ranges: str = ""
    """JSON file with ranges instead of those that `degradation` names."""
    upright: bool = False
    """Flip crops, but do not turn them (not with `in_memory`)."""
    in_memory: bool = False
    """Keep the photos in memory: much faster, as long as they fit."""
    camera_pairs: Path | None = None
    """Folder of real pairs, see `camera_pairs.py`."""
    camera_share: float = 0.5
    """Probability of a real pair where there are some."""

    def record(self) -> dict[str, Any]:
        """What belongs into the folder's own description: all that changes a pair, but no paths."""
        found: dict[str, Any] = {
            "patch": self.patch, "seed": self.seed, "degradation": self.degradation,
            "sharpen_targets": self.sharpen_targets, "photo_factors": list(self.photo_factors),
        }  # fmt: skip
        if self.degradation_ranges:
            found["degradation_ranges"] = json.loads(Path(self.degradation_ranges).read_text(encoding="utf-8"))
        if self.upright:
            found["upright"] = True
        if self.in_memory:
            found["in_memory"] = True
        if self.camera_pairs is not None:
            found["camera_share"] = self.camera_share
        return found

    def pairs(self, count: int) -> Dataset[Degraded]:
        """The pairs, made when they are asked for."""
        degrade = degradation(self.degradation, self.sharpen_targets, self.degradation_ranges)
        patches: Dataset[Degraded]
        if self.in_memory:
            photos = load_photos(self.photos, self.photo_factors, self.patch)
            patches = PhotoPatches(photos, self.patch, count, self.seed, degrade)
        else:
            patches = FilePatches(self.photos, self.patch, count, self.seed, degrade, self.photo_factors, self.upright)
        if self.camera_pairs is None:
            return patches
        real = CameraPairs(load_camera_pairs(self.camera_pairs, self.patch), self.patch, count, self.seed)
        return Mixed(patches, real, self.camera_share, self.seed)


def write_sheet(path: Path, pairs: Dataset[Degraded], count: int = 12, side: int = 192) -> None:
    """A picture to look at: inputs (enlarged without smoothing) beside their targets, four pairs in a row."""
    cells = []
    for index in range(count):
        pair = pairs[index]
        both = [
            F.interpolate(picture, size=(side, side), mode=m)
            for picture, m in ((pair.lr, "nearest"), (pair.hr, "area"))
        ]
        cells.append(torch.cat(both, dim=3)[0])
    rows = [torch.cat(cells[i : i + 4], dim=2) for i in range(0, count, 4)]
    write_png(path, torch.cat(rows, dim=1))


def pregenerate(what: Pregeneration, out: Path, count: int, workers: int = 0) -> int:
    """Make pairs OUT/lr/NUMBER.png (a quarter of the size) and OUT/hr/NUMBER.png, and note what was done to them.

    Pair i depends on the seed and i alone, so a run that was stopped goes on where it stopped, and a
    larger `count` adds to what is there.

    Returns:
        How many pairs were written now.

    Raises:
        InputError: no usable photo, or OUT holds pairs of other settings.
    """
    from tqdm.auto import tqdm

    if count < 1:
        raise InputError(f"must be at least 1, but got {count}", field="count")
    if not 0 <= what.camera_share <= 1:
        raise InputError(f"must be in [0, 1], but got {what.camera_share}", field="camera_share")
    settings = out / SETTINGS
    if settings.is_file() and json.loads(settings.read_text(encoding="utf-8")) != what.record():
        raise InputError(f"{out}: holds pairs of other settings (see {SETTINGS}); use another folder")
    pairs = what.pairs(count)
    with write_whole(settings) as temporary:
        temporary.write_text(json.dumps(what.record(), indent=1), encoding="utf-8")
    records = read_records(out)
    with write_whole(out / RECORDS) as temporary:  # without a line that a kill cut short
        temporary.write_text("".join(record.line() for record in records.values()), encoding="utf-8")
    names = [f"{number:08d}" for number in range(count)]
    missing = [
        number for number, name in enumerate(names)
        if name not in records or not all((out / part / f"{name}.png").is_file() for part in ("lr", "hr"))
    ]  # fmt: skip
    encoded = Subset(_Encoded(pairs, names), missing)
    loader = DataLoader(encoded, batch_size=1, num_workers=workers, collate_fn=_first)
    with (out / RECORDS).open("a", encoding="utf-8") as lines:
        for files in tqdm(loader, total=len(missing), unit="pair"):
            for part, content in (("lr", files.lr), ("hr", files.hr)):
                with write_whole(out / part / f"{files.record.name}.png") as temporary:
                    temporary.write_bytes(content)
            lines.write(files.record.line())
            lines.flush()
    return len(missing)
