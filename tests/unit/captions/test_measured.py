"""The measured captioner: each number follows its degradation, and every caption fits CLIP."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from torch import Tensor

from qusr_train.captions.instruction import INSTRUCTION
from qusr_train.captions.measured import Quality, describe, level, measure_quality
from qusr_train.data.filters import filter_image, gaussian_kernel
from qusr_train.model.tokenizer import fit_prompt

SHARP = Quality(0.1, 0.1, 0.0, 0.0, 0.0, 0.25, 0.0, 0.0, 0.5, 0.4, 0.0)
EXTREME = {
    "blur_x": (0.0, 6.0), "blur_y": (0.0, 1.0), "noise": (0.0, 1e6), "chroma_noise": (0.0, 1.0, 1e9),
    "blocking": (0.0, 10.0, 90.0), "colorfulness": (0.0, 2.0), "cast_red": (-0.5, 0.5), "cast_blue": (-0.5, 0.5),
    "exposure": (0.0, 1.0), "contrast": (0.0, 0.4, 1.0), "clipped": (0.0, 1.0),
}  # fmt: skip


def _noisy(image: Tensor, grey_levels: float) -> Tensor:
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    return (image + noise * grey_levels / 255).clamp(0, 1)


def test_blur_knows_its_direction(texture: Tensor) -> None:
    blurred = filter_image(texture, gaussian_kernel(4.0, 0.01, 0.0))
    q = measure_quality(blurred)[0]
    assert q.blur_x > q.blur_y + 1.0
    turned = measure_quality(blurred.transpose(-1, -2))[0]
    assert (turned.blur_x, turned.blur_y) == pytest.approx((q.blur_y, q.blur_x), abs=1e-5)


def test_black_and_white_halves_by_hand() -> None:
    image = torch.zeros(1, 3, 10, 10)
    image[..., 5:] = 1.0
    q = measure_quality(image)[0]
    assert (q.exposure, q.contrast, q.clipped) == pytest.approx((0.5, 1.0, 1.0))
    assert (q.colorfulness, q.cast_red, q.cast_blue) == pytest.approx((0.0, 0.0, 0.0), abs=1e-6)


def test_pure_red_by_hand() -> None:
    red = torch.zeros(1, 3, 8, 8)
    red[:, 0] = 1.0
    q = measure_quality(red)[0]
    # rg = 1, yb = 0.5; Y = 0.299, Cr = 0.713 * 0.701, Cb = -0.564 * 0.299
    assert q.colorfulness == pytest.approx(0.3 * math.hypot(1.0, 0.5))
    assert (q.exposure, q.cast_red, q.cast_blue) == pytest.approx((0.299, 0.499813, -0.168636), abs=1e-5)


@pytest.mark.parametrize(
    ("rgb", "word"),
    [((1, 0, 0), "reddish"), ((0, 1, 0), "greenish"), ((0, 0, 1), "bluish"), ((1, 1, 0), "yellowish")],
)
def test_casts_are_named(rgb: tuple[float, ...], word: str) -> None:
    image = torch.tensor(rgb).view(1, 3, 1, 1).expand(1, 3, 8, 8) * 0.5
    assert f"with a {word} cast" in describe(measure_quality(image)[0])


def test_caption_word_for_word() -> None:
    assert describe(SHARP) == (
        "The low-resolution image has excellent clarity, very sharp. The color is vivid. "
        "There is no visible noise and no compression artifacts. The lighting is balanced with moderate contrast."
    )
    worse = dataclasses.replace(
        SHARP, blur_x=1.3, blur_y=0.5, noise=6.0, chroma_noise=5.8, blocking=50.0, exposure=0.1, clipped=0.5
    )
    assert describe(worse) == (
        "The low-resolution image has poor clarity, blurry horizontally. The color is vivid. There is strong color "
        "noise and heavy compression artifacts. The lighting is very dark with moderate contrast and clipped areas."
    )


def test_every_caption_fits_clip() -> None:
    for values in itertools.product(*EXTREME.values()):
        caption = describe(Quality(*values))
        assert fit_prompt(caption).cut == 0, caption


def test_level_counts_the_thresholds_reached() -> None:
    assert [level(v, (1.0, 2.0, 3.0)) for v in (0.9, 1.0, 2.5, 3.0, 99.0)] == [0, 1, 2, 3, 3]


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (2, 2), (30, 1), (7, 9)])
def test_tiny_images_give_finite_numbers(size: tuple[int, int]) -> None:
    q = measure_quality(torch.rand(1, 3, *size))[0]
    assert all(math.isfinite(value) for value in dataclasses.asdict(q).values())
    assert describe(q).startswith("The low-resolution image has ")


def test_images_of_a_batch_are_measured_one_by_one(texture: Tensor) -> None:
    images = torch.cat([texture, _noisy(texture, 10.0)])
    assert measure_quality(images) == [measure_quality(images[:1])[0], measure_quality(images[1:])[0]]


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 8, 8), (1, 8, 8, 3)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(B, 3, H, W\)"):
        measure_quality(torch.zeros(shape))


def test_instruction_is_the_papers() -> None:
    assert INSTRUCTION == (
        "Please describe this low-resolution image, evaluating its quality based on clarity, color, noise, "
        "and lighting."
    )
