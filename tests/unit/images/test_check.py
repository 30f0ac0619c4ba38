"""What an image must be: everything usable is taken, everything else is named."""

from __future__ import annotations

import pytest
import torch

from qusr_train.images.check import ImageError, check_image


def test_rgb_is_moved_to_channels_first() -> None:
    image = torch.rand(2, 4, 5, 3)
    checked = check_image(image)
    assert torch.equal(checked.rgb, image.permute(0, 3, 1, 2))
    assert checked.rgb.is_contiguous()
    assert checked.alpha is None


def test_grey_becomes_three_equal_channels() -> None:
    image = torch.rand(1, 4, 5, 1)
    checked = check_image(image)
    assert checked.rgb.shape == (1, 3, 4, 5)
    assert all(torch.equal(checked.rgb[0, c], image[0, ..., 0]) for c in range(3))


def test_alpha_is_split_off() -> None:
    image = torch.rand(1, 4, 5, 4)
    checked = check_image(image)
    assert torch.equal(checked.rgb[0], image[0, ..., :3].permute(2, 0, 1))
    assert checked.alpha is not None
    assert torch.equal(checked.alpha[0, 0], image[0, ..., 3])


def test_values_are_clamped_without_touching_the_input() -> None:
    image = torch.tensor([-0.5, 0.5, 1.5]).view(1, 1, 1, 3)
    assert check_image(image).rgb.flatten().tolist() == [0.0, 0.5, 1.0]
    assert image.flatten().tolist() == [-0.5, 0.5, 1.5]


def test_half_precision_becomes_float32() -> None:
    assert check_image(torch.rand(1, 2, 2, 3).half()).rgb.dtype == torch.float32


def test_one_pixel_is_enough() -> None:
    assert check_image(torch.rand(1, 1, 1, 3)).rgb.shape == (1, 3, 1, 1)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(1, 8, 4, 4, 3), r"photo: got a video batch \(1, 8, 4, 4, 3\); split it into frames"),
        (torch.zeros(4, 4, 3), r"photo: expected \(batch, height, width, channels\), but got \(4, 4, 3\)"),
        (torch.zeros(0, 4, 4, 3), r"photo: is empty, its shape is \(0, 4, 4, 3\)"),
        (torch.zeros(1, 4, 0, 3), r"photo: is empty"),
        (torch.zeros(1, 3, 4, 5), r"photo: expected 1 \(grey\), 3 \(RGB\) or 4 \(RGBA\) channels, but got 5"),
        (torch.zeros(1, 3, 4, 2), r"photo: .*but got 2"),
        ("photo.png", r"photo: expected an IMAGE, but got str"),
        (None, r"photo: expected an IMAGE, but got NoneType"),
    ],
)
def test_unusable_input_is_named(image: torch.Tensor, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        check_image(image, "photo")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_are_counted_and_explained(bad: float) -> None:
    image = torch.zeros(1, 2, 2, 3)
    image[0, 0, :, 0] = bad
    with pytest.raises(ImageError, match=r"photo: 2 values are NaN or infinite.*fp32"):
        check_image(image, "photo")


def test_nan_in_alpha_is_found_too() -> None:
    image = torch.zeros(1, 2, 2, 4)
    image[0, 0, 0, 3] = float("nan")
    with pytest.raises(ImageError, match="mask: 1 values"):
        check_image(image, "mask")
