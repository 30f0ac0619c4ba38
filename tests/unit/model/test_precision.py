"""Half precision is used where the CPU has it, for inference in float32 alone, and hardly changes the picture."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from qusr_train.images.read import read_image
from qusr_train.model import precision
from qusr_train.model.precision import fast_products, multiplies_bfloat16
from qusr_train.restore import Restorer

PHOTO = Path(__file__).resolve().parents[3] / "nodes" / "example_photo" / "osprey-small.png"
CONV = nn.Conv2d(3, 4, 3)


@pytest.fixture
def _fast_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda: True)


def _format(x: Tensor) -> torch.dtype:
    with fast_products(x):
        return CONV.to(x.dtype)(x).dtype


@pytest.mark.usefixtures("_fast_cpu")
def test_inference_in_float32_multiplies_in_bfloat16() -> None:
    with torch.inference_mode():
        assert _format(torch.rand(1, 3, 8, 8)) == torch.bfloat16
    with torch.no_grad():
        assert _format(torch.rand(1, 3, 8, 8)) == torch.bfloat16


@pytest.mark.usefixtures("_fast_cpu")
def test_training_and_other_formats_stay_as_they_are() -> None:
    assert _format(torch.rand(1, 3, 8, 8)) == torch.float32
    with torch.no_grad():
        assert _format(torch.rand(1, 3, 8, 8, dtype=torch.float64)) == torch.float64


@pytest.mark.usefixtures("_fast_cpu")
def test_an_autocast_of_the_caller_stays() -> None:
    with torch.no_grad(), torch.autocast("cpu", torch.float16):
        assert _format(torch.rand(1, 3, 8, 8)) == torch.float16


def test_a_cpu_without_the_instructions_stays_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda: False)
    with torch.no_grad():
        assert _format(torch.rand(1, 3, 8, 8)) == torch.float32


def test_the_cpu_is_asked() -> None:
    """What Linux says about the CPU and what torch says agree."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        pytest.skip("needs Linux's list of the CPU's instructions")
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    assert multiplies_bfloat16() == bool({"avx512_bf16", "amx_bf16"} & set(flags))


def test_the_picture_hardly_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less than a grey level anywhere, a twentieth of one on average."""
    photo, restorer = read_image(PHOTO).rgb, Restorer()
    pictures = []
    for fast in (True, False):
        monkeypatch.setattr(precision, "multiplies_bfloat16", lambda fast=fast: fast)
        pictures.append(restorer(photo).image)
    difference = (pictures[0] - pictures[1]).abs() * 255
    assert 0 < difference.max() < 1
    assert difference.mean() < 0.05
