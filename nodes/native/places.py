"""Where a graph may read and write. A workflow may come from a stranger: every path and name in one is checked here."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import folder_paths

from ...qusr_train.files import numbered, write_new
from .host import MODEL_FOLDER, register_model_folder

log = logging.getLogger(__name__)

RUNS = "qusr-training"  # below ComfyUI's output folder
FOLDERS_FILE = "folders.txt"
LONGEST_NAME = 100
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # Windows gives these to devices


def folders_file() -> Path:
    """USER/qusr/folders.txt, where the user lists folders that graphs may read, one full path on each line."""
    return Path(folder_paths.get_user_directory()) / "qusr" / FOLDERS_FILE


def listed_folders() -> list[Path]:
    """The folders in `folders_file`; lines that are no full path, or begin with #, are left out."""
    try:
        text = folders_file().read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        log.warning("QUSR: %s cannot be read (%s)", folders_file(), error)
        return []
    lines = [line.strip() for line in text.splitlines()]
    return [Path(line) for line in lines if line and line[0] != "#" and "\0" not in line and Path(line).is_absolute()]


def input_folders() -> list[Path]:
    return [Path(folder_paths.get_input_directory())]


def run_folders() -> list[Path]:
    return [Path(folder_paths.get_output_directory()), *input_folders()]


def model_roots() -> list[Path]:
    register_model_folder()
    kinds = [folder for kind in (MODEL_FOLDER, "diffusers") for folder in folder_paths.get_folder_paths(kind)]
    return [Path(folder_paths.models_dir), *map(Path, kinds), *input_folders()]


def place_to_read(name: str, given: object, roots: list[Path]) -> Path:
    """The file or folder that a graph names, if a graph may read it.

    Args:
        name: the input's name for messages.
        given: a full path, or one below the first root.
        roots: folders it may lie in, beside those in `folders_file`.

    Raises:
        ValueError: no usable path, somewhere else, or not there.
    """
    if not isinstance(given, str) or not given.strip():
        raise ValueError(f"{name}: expected a path, but got {_shown(given)}; give one below {roots[0]}")
    if any(ord(character) < 32 for character in given) or len(given) > 4096:
        raise ValueError(f"{name}: expected a path, but got {_shown(given)}")
    try:
        path = (roots[0] / given.strip()).resolve()  # links are followed: what counts is where it leads
        inside = any(path.is_relative_to(root.resolve()) for root in [*roots, *listed_folders()])
        exists = inside and path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # too long, a loop of links
        raise ValueError(f"{name}: {_shown(given)} cannot be used as a path ({str(error)[:100]})") from error
    if not inside:
        raise ValueError(
            f"{name}: {_shown(given)} is outside of {' and '.join(map(str, roots))}, and a workflow may not read "
            f"elsewhere; move it there, or write the folder's full path on a line of its own in {folders_file()}"
        )
    if not exists:
        raise ValueError(f"{name}: nothing at {_shown(str(path))}; give a full path, or one below {roots[0]}")
    return path


def folder_to_read(name: str, given: object, roots: list[Path]) -> Path:
    """Like `place_to_read`, for folders only."""
    path = place_to_read(name, given, roots)
    if not path.is_dir():
        raise ValueError(f"{name}: expected a folder, but {_shown(str(path))} is a file")
    return path


def check_name(name: str, given: object) -> str:
    """A text that is safe as the name of a file or folder on every system.

    Raises:
        ValueError: anything else.
    """
    if not isinstance(given, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", given):
        raise ValueError(
            f"{name}: use letters, digits, dots, - and _ only, a letter or digit first, but got {_shown(given)}"
        )
    if len(given) > LONGEST_NAME or given.endswith(".") or _RESERVED.fullmatch(given):
        raise ValueError(f"{name}: {_shown(given)} cannot be the name of a file on every system; choose another")
    return given


def run_folder(name: object) -> Path:
    """Where a training run keeps its checkpoints and curves: output/qusr-training/NAME.

    Raises:
        ValueError: not a name, or a link there leads elsewhere.
    """
    output = Path(folder_paths.get_output_directory())
    folder = output / RUNS / check_name("name", name)
    if not folder.resolve().is_relative_to(output.resolve()):
        raise ValueError(f"name: {folder} is a link that leads out of {output}; choose another name")
    return folder


def model_file(checkpoint: object, kind: str = MODEL_FOLDER) -> str | None:
    """Full path of a model file by the name in a loader's list; None if there is none, or no name below its folder."""
    if not isinstance(checkpoint, str) or "\0" in checkpoint or os.path.isabs(checkpoint):  # noqa: PTH117
        return None
    if ".." in re.split(r"[/\\]", checkpoint):
        return None
    return folder_paths.get_full_path(kind, checkpoint)


def keep_model(source: Path, name: str) -> Path:
    """Copy a finished model into models/qusr. What is there stays: a name that is taken gets a number.

    Args:
        source: the finished file.
        name: without suffix, from `check_name`.

    Returns:
        Where it is now; a file there with the same content is taken as it is.
    """
    content = source.read_bytes()
    wanted = Path(folder_paths.get_folder_paths(MODEL_FOLDER)[0]) / f"{check_name('name', name)}.safetensors"
    number = 1
    while True:
        target = numbered(wanted, number)
        if target.is_file() and target.stat().st_size == len(content) and target.read_bytes() == content:
            return target
        if not os.path.lexists(target):
            try:
                with write_new(target) as temporary:
                    temporary.write_bytes(content)
                return target
            except FileExistsError:
                pass  # taken in the meantime
        number += 1


def _shown(given: object) -> str:
    text = repr(given)
    return text if len(text) <= 200 else text[:200] + "…"
