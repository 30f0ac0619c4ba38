"""Uncertainty maps as files: `STEM.npy`, float32, (H, W), the expected absolute error of each pixel in grey levels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import InputError
from ..files import write_whole

SUFFIX = ".npy"


def write_map(path: Path, values: np.ndarray) -> None:
    """Write (H, W) values in grey levels as float32; the file appears whole or not at all."""
    with write_whole(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.asarray(values, np.float32), allow_pickle=False)


def read_map(path: Path, shape: tuple[int, int] | None = None) -> np.ndarray:
    """Read a map.

    Args:
        path: a .npy file; no code in it is run.
        shape: height and width that it must have.

    Returns:
        (H, W), float32, at least 0, in grey levels.

    Raises:
        InputError: not a map, or of another size.
    """
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: cannot be read as a map ({error}); expected a .npy file of float32") from error
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind != "f":
        found = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
        raise InputError(f"{path}: expected one plane of floating-point numbers (H, W), but got {found}")
    if shape is not None and values.shape != tuple(shape):
        raise InputError(
            f"{path}: map is {values.shape[1]} x {values.shape[0]}, the picture {shape[1]} x {shape[0]}; "
            "both must have the same size"
        )
    if not np.isfinite(values).all() or values.min() < 0:
        raise InputError(f"{path}: expected finite errors of at least 0, but got others")
    return values.astype(np.float32, copy=False)


def find_maps(folder: Path) -> dict[str, Path]:
    """All maps below a folder by their name without suffix. Raises InputError: none, or a name twice."""
    result: dict[str, Path] = {}
    for path in sorted(folder.rglob("*" + SUFFIX)):
        if path.stem in result:
            raise InputError(f"{path} and {result[path.stem]} have the same name; maps are matched by name, rename one")
        result[path.stem] = path
    if not result:
        raise InputError(f"{folder}: no maps found (looked for {SUFFIX})")
    return result
