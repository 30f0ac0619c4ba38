"""Finding picture files in folders, and matching two folders by name."""

from __future__ import annotations

import logging
from pathlib import Path

from ..errors import InputError

log = logging.getLogger(__name__)


IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def find_images(folder: Path) -> list[Path]:
    """All images below a folder, sorted by path. Raises ValueError when there is none."""
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not found:
        raise InputError(f"{folder}: no images found (looked for {', '.join(IMAGE_SUFFIXES)})")
    return found


def by_stem(paths: list[Path]) -> dict[str, Path]:
    """Images by their name without suffix. Raises ValueError when two share one."""
    result: dict[str, Path] = {}
    for path in paths:
        if path.stem in result:
            raise InputError(
                f"{path} and {result[path.stem]} have the same name; images are matched by name, rename one"
            )
        result[path.stem] = path
    return result


def match_folders(predictions: Path, truths: Path) -> dict[str, tuple[Path, Path]]:
    """Prediction and ground truth by common stem; images without a partner are reported.

    Raises:
        ValueError: no common name, or a name twice.
    """
    from ..images.find import find_images

    found, wanted = by_stem(find_images(predictions)), by_stem(find_images(truths))
    pairs = {stem: (path, wanted[stem]) for stem, path in found.items() if stem in wanted}
    if not pairs:
        raise InputError(f"no image in {predictions} has the same name as one in {truths}")
    for folder, alone in ((truths, wanted.keys() - pairs.keys()), (predictions, found.keys() - pairs.keys())):
        if alone:
            shown = ", ".join(sorted(alone)[:3]) + (", ..." if len(alone) > 3 else "")
            log.warning("%s: %d images have no partner and are left out (%s)", folder, len(alone), shown)
    return pairs
