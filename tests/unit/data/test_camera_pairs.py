"""Real pairs: their layout, their crops, and the blur that is measured on them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from qusr_train.data.camera_pairs import CameraPairs, fit_blur, load_camera_pairs
from qusr_train.data.filters import filter_image, gaussian_kernel
from qusr_train.data.mixed import Mixed


def _save(path: Path, picture: Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((picture * 255).round().byte().permute(1, 2, 0).numpy()).save(path)


@pytest.fixture
def cameras(tmp_path: Path, texture: Tensor) -> Path:
    """Two cameras with a pair each: 192 x 96 and 96 x 96."""
    for name, width in (("first", 2), ("second", 1)):
        hr = texture.repeat(1, 1, 1, width)
        _save(tmp_path / name / "hr" / "1.png", hr[0])
        _save(tmp_path / name / "lr2" / "1.png", F.interpolate(hr, scale_factor=0.5, mode="area")[0])
    return tmp_path


@pytest.mark.parametrize("blur", [0.0, 0.4, 0.7, 1.05])
def test_fitted_blur_is_the_one_applied(blur: float) -> None:
    hr = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(3))
    sigma = 4 * blur
    x = filter_image(hr, gaussian_kernel(sigma, sigma, 0.0, 2 * math.ceil(3 * sigma) + 1)) if sigma else hr
    lr = F.interpolate(x, size=(32, 32), mode="area") + 0.03  # brightness is no blur
    assert fit_blur(lr, hr) == blur


def test_every_camera_is_read_at_half_the_size(cameras: Path) -> None:
    pairs = load_camera_pairs(cameras, 64)
    assert [tuple(hr.shape) for hr, _ in pairs] == [(3, 96, 192), (3, 96, 96)]
    assert all(lr2.shape[1:] == torch.Size([hr.shape[1] // 2, hr.shape[2] // 2]) for hr, lr2 in pairs)


def test_samples_are_aligned_and_reproducible(cameras: Path) -> None:
    pairs = load_camera_pairs(cameras, 64)
    one, other = CameraPairs(pairs, 64, 20, seed=3), CameraPairs(pairs, 64, 20, seed=3)
    blurs = set()
    for index in range(20):
        pair = one[index]
        assert pair.lr.shape == (1, 3, 16, 16)
        assert pair.hr.shape == (1, 3, 64, 64)
        torch.testing.assert_close(pair.lr * 255, (pair.lr * 255).round(), atol=1e-4, rtol=0)
        small = F.interpolate(pair.hr, size=(16, 16), mode="area")
        aligned = (pair.lr - small).abs().mean()
        assert aligned < 0.07
        assert aligned < (pair.lr - small.flip(-1)).abs().mean()
        assert torch.equal(other[index].lr, pair.lr)
        assert pair.applied is not None
        blurs.add(pair.applied.blur)
    assert len(blurs) > 3


def test_layout_that_is_not_there_is_named(cameras: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"camera_pairs .*: expected folders CAMERA/hr and CAMERA/lr2 in it"):
        load_camera_pairs(tmp_path / "nothing", 64)
    with pytest.raises(ValueError, match="no pair is at least 256 pixels on both sides"):
        load_camera_pairs(cameras, 256)
    Image.new("RGB", (96, 96)).save(cameras / "second" / "lr2" / "1.png")
    with pytest.raises(ValueError, match=r"1\.png: is 96 x 96, its target 96 x 96; expected half of that"):
        load_camera_pairs(cameras, 64)


def test_mixed_takes_the_share_and_keeps_the_index() -> None:
    first, second = range(400), range(1000, 1400)
    taken = list(Mixed(first, second, 0.3, seed=1)[i] for i in range(400))  # type: ignore[arg-type]
    assert all(value % 1000 == i for i, value in enumerate(taken))
    assert 0.22 < sum(value >= 1000 for value in taken) / 400 < 0.38
    assert [Mixed(first, second, 0.0, 1)[i] for i in range(9)] == list(range(9))  # type: ignore[arg-type]
