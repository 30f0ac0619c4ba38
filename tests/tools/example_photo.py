"""Make the bundled example photo from its source: python -m tests.tools.example_photo PHOTO.

PHOTO is perched-osprey.jpg of Debian's budgie-backgrounds 3.0-1 (CC0). The small version comes
from the project's own degradation code.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from qusr_train.data.camera import degrade
from qusr_train.images.write import write_png

TARGET = Path(__file__).resolve().parents[2] / "nodes" / "example_photo"
CROP = (480, 170, 1248, 938)
SEED = 6


def main(source: str) -> None:
    """Write osprey-original.png and osprey-small.png."""
    photo = Image.open(source).convert("RGB").resize((1920, 1080), Image.Resampling.LANCZOS).crop(CROP)
    original = torch.from_numpy(np.asarray(photo, dtype=np.float32) / 255.0).permute(2, 0, 1)
    small = degrade(original[None], torch.Generator().manual_seed(SEED)).lr[0]
    write_png(TARGET / "osprey-original.png", original)
    write_png(TARGET / "osprey-small.png", small)


if __name__ == "__main__":
    main(sys.argv[1])
