"""Reading captions that lie in a file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from ..errors import InputError
from .folder import read_lines


def read_captions(path: Path, stems: Iterable[str]) -> dict[str, str]:
    """The captions of images by their stem.

    Args:
        path: a JSON object {image name, with or without suffix: text}, or the lines that `caption` writes (.jsonl).
        stems: of the images that must have one.

    Raises:
        ValueError: not readable, or an image without a caption.
    """
    try:
        if path.suffix == ".jsonl":
            if not path.is_file():
                raise FileNotFoundError(f"no such file: {path}")
            content = {name: entry["text"] for name, entry in read_lines(path).items()}
        else:
            content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: cannot be read as captions ({error})") from error
    if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):
        raise InputError(f"{path}: expected a JSON object of image names and texts")
    by_stem = {Path(name).stem: text for name, text in content.items()}
    missing = sorted(set(stems) - by_stem.keys())
    if missing:
        raise InputError(f"{path}: {len(missing)} images have no caption ({', '.join(missing[:3])})")
    return by_stem
