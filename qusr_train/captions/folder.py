"""Caption a data set: one line of JSON for each image, in any number of processes, resumable after a kill.

Every process appends whole lines to a part file of its own (`OUT.part-N`) and asks for its share of
the images. A part file left by a killed run is read like the others, so nothing is asked twice. When
all are done, the first process writes OUT, sorted by file name, and removes the parts.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import InputError
from ..files import write_whole
from ..images.check import ImageError
from ..images.find import find_images
from ..images.read import read_rgb
from ..packages import require_packages
from .cache import CaptionCache, caption_images
from .captioner import Caption, Captioner, CaptionError

log = logging.getLogger(__name__)

CHUNK = 16
"""Images read at once; what a kill can lose."""


@dataclass(frozen=True)
class Share:
    """Which process this is, of how many."""

    rank: int = 0
    count: int = 1
    wait: Callable[[], None] = lambda: None
    """Returns when all processes have called it."""

    @classmethod
    def of_launch(cls, on_cpu: bool) -> Share:
        """As `accelerate launch` (or torchrun) has set it up; a single process otherwise.

        Args:
            on_cpu: the captioner needs no GPU, so there may be more processes than GPUs.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) < 2:
            return cls()
        require_packages("captioning in several processes", ["accelerate"], "One process works without.")
        from accelerate import PartialState

        # The first to finish waits for the last, however long that takes.
        state = PartialState(cpu=on_cpu, timeout=timedelta(days=30))
        return cls(state.process_index, state.num_processes, state.wait_for_everyone)


@dataclass(frozen=True)
class Outcome:
    """What one process did."""

    captioned: int
    known: int
    failed: int


def read_lines(path: Path) -> dict[str, dict[str, Any]]:
    """The lines of a JSONL file by `file`; a last line that a kill cut short is left out.

    Raises:
        ValueError: a line that is not ours.
    """
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").split("\n")
    found = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            found[entry["file"]] = {"text": entry["text"], **entry}
        except (ValueError, LookupError, TypeError) as error:
            if number == len(lines):  # no line break after it: cut short
                break
            raise InputError(f"{path}: line {number} is not a caption; give another file") from error
    return found


def _parts(out: Path) -> list[Path]:
    return sorted(out.parent.glob(f"{out.name}.part-*"))


def _known(out: Path, identity: str) -> dict[str, dict[str, Any]]:
    """Everything that is captioned already."""
    known = read_lines(out)
    for part in _parts(out):
        known |= read_lines(part)
    others = {entry.get("captioner") for entry in known.values()} - {identity}
    if others:
        raise InputError(
            f"was made by another captioner ({sorted(map(str, others))[0]!r}, now {identity!r}); "
            "give another name, or remove it",
            field="out",
            value=out,
        )
    return known


def _chunks(items: Sequence[Path], size: int) -> Iterator[Sequence[Path]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def caption_folder(
    folder: Path,
    captioner: Captioner,
    out: Path,
    share: Share | None = None,
    cache: CaptionCache | None = None,
    chunk: int = CHUNK,
    report: Callable[[int, int, float], None] = lambda done, total, rate: None,
) -> Outcome:
    """Caption every image below a folder into a JSONL file, leaving out what it has already.

    A line is {"file": path below the folder, "text": caption, "captioner": identity}, with "numbers"
    where the captioner has them. An image that cannot be read, or that the captioner cannot answer,
    is reported and left out; running again tries it again.

    Args:
        folder: searched recursively.
        captioner: any.
        out: the file; beside it, part files while running.
        share: this process's share.
        cache: captions known from elsewhere.
        chunk: images handed to the captioner at once.
        report: called with images done and to do by this process, and images per second.

    Raises:
        ValueError: no images, or `out` is something else.
        CaptionError: the captioner can answer nothing at all.
    """
    share = share or Share()
    out.parent.mkdir(parents=True, exist_ok=True)
    files = find_images(folder)
    identity = captioner.identity
    known = _known(out, identity)
    share.wait()  # before anyone adds to a part file that others are still reading
    todo = [path for path in files if _name(path, folder) not in known][share.rank :: share.count]
    captioned = failed = 0
    part = out.with_name(f"{out.name}.part-{share.rank}")
    _mend(part)
    started = time.monotonic()
    with part.open("a", encoding="utf-8", newline="\n") as lines:
        for some in _chunks(todo, chunk):
            images = {}
            for path in some:
                try:
                    images[path] = read_rgb(path)
                except ImageError as error:
                    failed += 1
                    log.error("error: %s", error)
            captions = _describe(captioner, images, cache)
            failed += len(images) - len(captions)
            for path, caption in captions.items():
                entry: dict[str, Any] = {
                    "file": _name(path, folder),
                    "text": caption.text,
                    "captioner": identity,
                }
                if caption.numbers is not None:
                    entry["numbers"] = caption.numbers
                lines.write(json.dumps(entry, ensure_ascii=False) + "\n")
            lines.flush()
            captioned += len(captions)
            report(captioned + failed, len(todo), (captioned + failed) / max(1e-9, time.monotonic() - started))
            if failed and not captioned and images:
                raise CaptionError(
                    f"none of the first {len(some)} images was captioned; see the errors above", field="captioner"
                )
    share.wait()
    if share.rank == 0:
        entries = _known(out, identity)
        order = {_name(path, folder): number for number, path in enumerate(files)}
        with write_whole(out) as temporary:
            temporary.write_text(
                "".join(
                    json.dumps(entries[name], ensure_ascii=False) + "\n"
                    for name in sorted(entries, key=lambda name: (order.get(name, len(order)), name))
                ),
                encoding="utf-8",
                newline="\n",
            )
        for one in _parts(out):
            one.unlink()
    share.wait()
    return Outcome(captioned, len(known), failed)


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _mend(part: Path) -> None:
    """Remove a last line that was cut short, so that the next one does not join it."""
    if part.exists():
        content = part.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            with write_whole(part) as temporary:
                temporary.write_bytes(whole)


def _describe(captioner: Captioner, images: dict[Path, Tensor], cache: CaptionCache | None) -> dict[Path, Caption]:
    """Captions of a chunk; if it fails, of each image that can be done alone."""
    try:
        return dict(zip(images, caption_images(captioner, list(images.values()), cache), strict=True))
    except CaptionError as error:
        if len(images) == 1:
            log.error("error: %s: %s", next(iter(images)), error.reason)
            return {}
    found: dict[Path, Caption] = {}
    for path, image in images.items():
        found |= _describe(captioner, {path: image}, cache)
    return found
