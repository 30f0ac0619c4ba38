"""A nano file of version 0.1.0 keeps loading and keeps giving its picture."""

from __future__ import annotations

import torch

from qusr_train.checkpoints.nano_file import load_nano
from qusr_train.images.read import read_image
from qusr_train.restore import Restorer
from tests.support.comfyui import ROOT

OLD = ROOT / "tests" / "golden" / "nano-0.1.0"


def test_old_file_gives_its_old_picture() -> None:
    checkpoint = load_nano(OLD / "qusr-nano.safetensors")
    assert (checkpoint.config.film, checkpoint.config.uem) == (0, "paper")
    photo = read_image(ROOT / "nodes" / "example_photo" / "osprey-small.png").rgb[..., 10:58, 20:68]
    result = Restorer(checkpoint)(photo)
    assert result.expected_error is None  # its map has no unit
    made_then = read_image(OLD / "osprey.png").rgb
    torch.testing.assert_close(result.image, made_then, atol=1.01 / 255, rtol=0)
    assert (result.image - made_then).abs().mean() < 0.5 / 255
