"""Training data from files: photos that are degraded when they are read, and pairs that were made before.

Sample i is the same for the same seed in any worker. Each epoch goes through all files in its own order.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from . import quality
from .caption_folder import read_lines
from .config import TrainConfig
from .data import Degradation, Sample, find_images, turned
from .degradations import SCALE, Degraded, degrade
from .evaluate import match_folders
from .images import enlarge
from .second_order import degrade_second_order

log = logging.getLogger(__name__)

BROKEN = (OSError, SyntaxError, Image.DecompressionBombError)
"""What Pillow raises on a damaged picture."""
CAPTIONS = "captions.json"


def degradation(name: str, sharpen_targets: bool = False) -> Degradation:
    """The degradation called `camera` or `second_order`."""
    if name == "camera":
        return degrade
    return functools.partial(degrade_second_order, sharpen=sharpen_targets)


def epoch_order(index: int, count: int, seed: int) -> tuple[int, int]:
    """Which of `count` files sample `index` takes, in an order that is shuffled anew each epoch.

    Returns:
        The file's number, and the epoch.
    """
    epoch, place = divmod(index, count)
    return int(_permutation(count, seed, epoch)[place]), epoch


@functools.lru_cache(maxsize=2)
def _permutation(count: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed * 9_176_867 + epoch))


def usable(paths: Iterable[Path], smallest: int) -> list[Path]:
    """The pictures whose header can be read and whose sides are at least `smallest`; others are counted and named."""
    good, broken, small = [], [], 0
    for path in paths:
        try:
            with Image.open(path) as opened:
                fits = min(opened.size) >= smallest
        except BROKEN as error:
            log.warning("%s: skipped, cannot be read (%s)", path, error)
            broken.append(path)
            continue
        if fits:
            good.append(path)
        else:
            small += 1
    if broken:
        log.warning("%d broken images skipped", len(broken))
    if small:
        log.warning("%d images skipped, a side is below %d pixels", small, smallest)
    return good


def read(path: Path) -> Tensor:
    """(3, H, W) in [0, 1]."""
    with Image.open(path) as opened:
        return torch.from_numpy(np.array(opened.convert("RGB"))).permute(2, 0, 1).float() / 255.0


class FilePatches(Dataset[Degraded]):
    """Random crops of photo files, turned and degraded; a file that fails is reported and the next one taken."""

    def __init__(
        self,
        folder: Path,
        patch: int,
        length: int,
        seed: int,
        degrade: Degradation,
        factors: tuple[float, ...] = (1.0,),
    ) -> None:
        self.patch, self.length, self.seed, self.degrade = patch, length, seed, degrade
        self.factors = factors
        self.paths = usable(find_images(folder), int(np.ceil(patch / max(factors))))
        if not self.paths:
            raise ValueError(f"{folder}: no photo is at least {patch} pixels on both sides after scaling")

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Degraded:
        if not 0 <= index < self.length:
            raise IndexError(index)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        number, _ = epoch_order(index, len(self.paths), self.seed)
        for attempt in range(len(self.paths)):
            path = self.paths[(number + attempt) % len(self.paths)]
            try:
                photo = self._crop(path, generator)
            except BROKEN as error:
                log.warning("%s: cannot be read (%s); took the next one", path, error)
                continue
            return self.degrade(turned(photo, generator)[None].contiguous(), generator, SCALE)
        raise ValueError("no photo can be read any more")

    def _crop(self, path: Path, generator: torch.Generator) -> Tensor:
        with Image.open(path) as opened:
            photo = opened.convert("RGB")
        fitting = [factor for factor in self.factors if round(min(photo.size) * factor) >= self.patch]
        factor = fitting[int(torch.randint(len(fitting), (), generator=generator))]
        if factor != 1.0:
            photo = photo.resize((round(photo.width * factor), round(photo.height * factor)), Image.Resampling.LANCZOS)
        y = int(torch.randint(photo.height - self.patch + 1, (), generator=generator))
        x = int(torch.randint(photo.width - self.patch + 1, (), generator=generator))
        crop = photo.crop((x, y, x + self.patch, y + self.patch))
        return torch.from_numpy(np.array(crop)).permute(2, 0, 1).float() / 255.0


class CaptionedPatches(Dataset[Sample]):
    """`FilePatches` as training samples, with the measured prompt or none."""

    def __init__(self, patches: FilePatches, prompts: str) -> None:
        self.patches, self.prompts = patches, prompts

    def __len__(self) -> int:
        return len(self.patches)

    def __getitem__(self, index: int) -> Sample:
        pair = self.patches[index]
        prompt = quality.describe(quality.measure_quality(pair.lr)[0]) if self.prompts == "measured" else ""
        return _sample(pair.lr[0], pair.hr[0], prompt)


def _sample(lr: Tensor, hr: Tensor, prompt: str, moments: Tensor | None = None) -> Sample:
    """(3, h, w) and (3, H, W) in [0, 1] -> a sample, the input enlarged to the target's size."""
    x_lq = lr if lr.shape == hr.shape else enlarge(lr[None], *hr.shape[-2:]).clamp(0, 1)[0]
    return Sample(x_lq * 2 - 1, hr * 2 - 1, prompt, moments)


def load_captions(folder: Path, stems: Iterable[str]) -> dict[str, str]:
    """`captions.json` beside `lr` and `hr`: {image name, with or without suffix: prompt}.

    Without it `captions.jsonl`, as the command `caption FOLDER/lr --out FOLDER/captions.jsonl` writes it.

    Raises:
        ValueError: no such file, not readable, or an image without a caption.
    """
    path = folder / CAPTIONS
    lines = path.with_suffix(".jsonl")
    try:
        if lines.is_file() and not path.is_file():
            path = lines
            content = {name: entry["text"] for name, entry in read_lines(path).items()}
        else:
            content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); --prompts files needs it") from error
    if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):
        raise ValueError(f"{path}: expected a JSON object of image names and texts")
    by_stem = {Path(name).stem: text for name, text in content.items()}
    missing = sorted(set(stems) - by_stem.keys())
    if missing:
        raise ValueError(f"{path}: {len(missing)} images have no caption ({', '.join(missing[:3])})")
    return by_stem


class PairPatches(Dataset[Sample]):
    """Crops of aligned pairs FOLDER/lr and FOLDER/hr, matched by name; lr is a quarter as large, or as large, as hr.

    Args:
        folder: with `lr`, `hr` and, for prompts `files`, captions.json.
        patch: side of a crop of hr.
        length: number of samples.
        seed: of order, crops and turns.
        prompts: `measured`, `files` or `empty`.
        fixed: take pairs as they are, without crop or turn; they must be as large as `patch`.
    """

    def __init__(self, folder: Path, patch: int, length: int, seed: int, prompts: str, fixed: bool = False) -> None:
        for part in ("lr", "hr"):
            if not (folder / part).is_dir():
                raise ValueError(f"--pairs {folder}: expected the folders lr and hr in it, but {part} is missing")
        self.patch, self.length, self.seed, self.prompts, self.fixed = patch, length, seed, prompts, fixed
        good = set(usable((pair[1] for pair in match_folders(folder / "lr", folder / "hr").values()), patch))
        self.pairs = {s: p for s, p in match_folders(folder / "lr", folder / "hr").items() if p[1] in good}
        self.pairs = {s: p for s, p in sorted(self.pairs.items()) if self._fits(*p)}
        if not self.pairs:
            raise ValueError(f"--pairs {folder}: no pair is at least {patch} pixels on both sides")
        self.stems = list(self.pairs)
        self.captions = load_captions(folder, self.stems) if prompts == "files" else {}
        self.cache: Path | None = None
        """Folder with cached latents, see `latent_cache.py`."""

    def _fits(self, lr: Path, hr: Path) -> bool:
        try:
            with Image.open(lr) as small, Image.open(hr) as large:
                sizes = small.size, large.size
        except BROKEN as error:
            log.warning("%s: skipped, cannot be read (%s)", lr, error)
            return False
        if sizes[1] not in (sizes[0], (sizes[0][0] * SCALE, sizes[0][1] * SCALE)):
            raise ValueError(
                f"{lr}: is {sizes[0][0]} x {sizes[0][1]}, its target {sizes[1][0]} x {sizes[1][1]}; expected {SCALE} "
                "times the size, or the same"
            )
        if self.fixed and sizes[1] != (self.patch, self.patch):
            raise ValueError(
                f"{hr}: is {sizes[1][0]} x {sizes[1][1]}; cached latents need pairs of exactly --patch {self.patch} "
                "pixels (make them with `degrade`)"
            )
        return True

    def __len__(self) -> int:
        return self.length

    def pair(self, stem: str) -> tuple[Tensor, Tensor]:
        """lr and hr of one name, (3, h, w) and (3, H, W) in [0, 1]."""
        return read(self.pairs[stem][0]), read(self.pairs[stem][1])

    def input(self, stem: str) -> Tensor:
        """x_lq of one whole pair: (3, H, W) in [-1, 1]."""
        return _sample(*self.pair(stem), "").x_lq

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.length:
            raise IndexError(index)
        number, _ = epoch_order(index, len(self.stems), self.seed)
        for attempt in range(len(self.stems)):
            stem = self.stems[(number + attempt) % len(self.stems)]
            try:
                lr, hr = self.pair(stem)
            except BROKEN as error:
                log.warning("%s: cannot be read (%s); took the next one", stem, error)
                continue
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
            return self._make(stem, lr, hr, generator)
        raise ValueError("no pair can be read any more")

    def _make(self, stem: str, lr: Tensor, hr: Tensor, generator: torch.Generator) -> Sample:
        if not self.fixed:
            ratio = hr.shape[-1] // lr.shape[-1]
            side = self.patch // ratio
            y = int(torch.randint(lr.shape[-2] - side + 1, (), generator=generator))
            x = int(torch.randint(lr.shape[-1] - side + 1, (), generator=generator))
            lr = lr[:, y : y + side, x : x + side]
            hr = hr[:, y * ratio : y * ratio + self.patch, x * ratio : x * ratio + self.patch]
            state = generator.get_state()
            lr = turned(lr, generator).contiguous()
            generator.set_state(state)
            hr = turned(hr, generator).contiguous()
        moments = None
        if self.cache is not None:
            from safetensors.torch import load_file

            moments = load_file(self.cache / f"{stem}.safetensors")["moments"]
        return _sample(lr, hr, self._prompt(stem, lr), moments)

    def _prompt(self, stem: str, lr: Tensor) -> str:
        if self.prompts == "files":
            return self.captions[stem]
        return quality.describe(quality.measure_quality(lr[None])[0]) if self.prompts == "measured" else ""


def file_samples(config: TrainConfig, length: int) -> CaptionedPatches | PairPatches:
    """The data set that the settings ask for, from files."""
    if config.pairs:
        return PairPatches(
            Path(config.pairs), config.patch, length, config.seed, config.prompts, fixed=config.cache_latents
        )
    degrade = degradation(config.degradation, config.sharpen_targets)
    patches = FilePatches(Path(config.photos), config.patch, length, config.seed, degrade, config.photo_factors)
    return CaptionedPatches(patches, config.prompts)
