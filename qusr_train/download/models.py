"""Bring a public model into the right folder, unless some configured folder has it already."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .catalog import MODELS, PublicFile, PublicModel, locate
from .connection import DownloadError
from .transfer import Check, Progress, fetch, gigabytes, is_there

__all__ = ["DownloadError", "Outcome", "choose", "download_model", "find_file", "look"]


@dataclass(frozen=True)
class Outcome:
    """What became of one file."""

    file: PublicFile
    path: Path
    """Where it is, or where it would go."""
    state: str
    """In words: found, how it was verified, or missing."""
    present: bool

    def __str__(self) -> str:
        return f"{self.file.name}: {self.state}\n  {self.path}"


def choose(name: str) -> PublicModel:
    """A model by its name.

    Raises:
        DownloadError: unknown name.
    """
    if name not in MODELS:
        raise DownloadError(f"model: expected one of {', '.join(MODELS)}, but got {name!r}")
    return MODELS[name]


def find_file(file: PublicFile, folders: Sequence[Path], in_subfolders: bool) -> Path | None:
    """The file under any of its names, in any folder; upper and lower case do not matter.

    Symbolic links are followed, as ComfyUI does.
    """
    names = {name.lower() for name in (file.name, *file.also)}
    seen: set[str] = set()
    for folder in folders:
        for where, subfolders, entries in os.walk(folder, followlinks=True):
            for entry in sorted(entries):
                if entry.lower() in names and is_there(Path(where, entry)):
                    return Path(where, entry)
            seen.add(os.path.realpath(where))
            fresh = [sub for sub in subfolders if os.path.realpath(Path(where, sub)) not in seen]
            subfolders[:] = sorted(fresh) if in_subfolders else []
    return None


def look(model: PublicModel, folders: Sequence[Path]) -> list[Outcome]:
    """Where each file of a model is, or that it is missing and would go to the first folder. Uses no network."""
    outcomes = []
    for file in model.files:
        path = find_file(file, folders, model.in_subfolders)
        if path is None:
            outcomes.append(Outcome(file, folders[0] / file.name, "missing", present=False))
            continue
        size, state = path.stat().st_size, "already there; nothing downloaded"
        if file.size is not None and path.name.lower() == file.name.lower() and size != file.size:
            state += (
                f". Its size is {gigabytes(size)} ({size} bytes), the published file has {file.size} bytes: if it does "
                "not load, delete it and run this again"
            )
        outcomes.append(Outcome(file, path, state, present=True))
    return outcomes


def download_model(
    model: PublicModel,
    folders: Sequence[Path],
    progress: Progress | None = None,
    check: Check | None = None,
) -> list[Outcome]:
    """Download what is missing of a model into the first of `folders`, after looking through all of them.

    Raises:
        DownloadError: see `transfer.fetch`.
    """
    outcomes = look(model, folders)
    for index, outcome in enumerate(outcomes):
        if not outcome.present:
            how = fetch(locate(outcome.file, model.kind), outcome.path, progress, check)
            outcomes[index] = Outcome(outcome.file, outcome.path, f"downloaded; {how}", present=True)
    return outcomes
