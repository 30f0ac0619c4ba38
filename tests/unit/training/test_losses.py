"""Losses against numbers worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from qusr_train.training.losses import (
    charbonnier_loss,
    csd_loss,
    gradient_loss,
    l2_loss,
    laplace_loss,
    normalized_uncertainty,
    patch_weights,
    psnr_loss,
    uncertainty_loss,
)
from qusr_train.training.perceptual import VGG16, PerceptualLoss, find_backbone


def _constant(value: float) -> torch.Tensor:
    return torch.full((2, 3, 4, 4), value)


def test_uncertainty_loss_by_hand() -> None:
    # |1 - 0| * e^-ln 2 + 0.5 ln 2
    loss = uncertainty_loss(_constant(1.0), _constant(0.0), _constant(math.log(2)), alpha=0.5)
    assert loss.item() == pytest.approx(0.5 + 0.5 * math.log(2))


def test_uncertainty_loss_without_uncertainty_is_l1() -> None:
    x_hq, x_gt = torch.rand(2, 1, 3, 5, 5).unbind(0)
    loss = uncertainty_loss(x_hq, x_gt, torch.zeros(1, 3, 5, 5), alpha=2.0)
    assert loss.item() == pytest.approx((x_hq - x_gt).abs().mean().item())


@pytest.mark.parametrize(("error", "alpha"), [(0.6, 0.03), (0.1, 0.05), (1.5, 0.5)])
def test_uncertainty_loss_is_least_at_the_log_of_error_over_alpha(error: float, alpha: float) -> None:
    best = math.log(error / alpha)

    def loss(u: float) -> float:
        return uncertainty_loss(_constant(error).double(), _constant(0.0), _constant(u).double(), alpha).item()

    assert loss(best) < min(loss(best - 0.05), loss(best + 0.05))
    u = _constant(best).requires_grad_()
    uncertainty_loss(_constant(error), _constant(0.0), u, alpha).backward()
    assert u.grad is not None
    assert u.grad.abs().max().item() == pytest.approx(0.0, abs=1e-7)


def test_uncertainty_below_alpha_does_not_pay() -> None:
    small = [uncertainty_loss(_constant(0.02), _constant(0.0), _constant(u), 0.03).item() for u in (0.0, 0.1, 1.0)]
    assert small == sorted(small)


def test_gradient_loss_of_a_ramp_is_its_slope() -> None:
    ramp = (torch.arange(5.0) * 0.1).expand(1, 3, 4, 5)
    assert gradient_loss(ramp, torch.zeros(1, 3, 4, 5)).item() == pytest.approx(0.1)
    turned = ramp.transpose(-1, -2)
    assert gradient_loss(turned, torch.zeros_like(turned)).item() == pytest.approx(0.1)


def test_gradient_loss_does_not_see_a_constant_offset() -> None:
    x = torch.rand(1, 3, 6, 6)
    assert gradient_loss(x + 0.5, x).item() == pytest.approx(0.0, abs=1e-6)


def test_charbonnier_by_hand() -> None:
    # a 3-4-5 triangle: sqrt(0.003^2 + 0.004^2)
    assert charbonnier_loss(_constant(0.003), _constant(0.0), eps=0.004).item() == pytest.approx(0.005)
    assert charbonnier_loss(_constant(0.7), _constant(0.7)).item() == pytest.approx(1e-3)


def test_psnr_loss_is_psnr() -> None:
    x_hq, x_gt = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    psnr = -10 * torch.log10(((x_hq - x_gt) / 2).square().mean((1, 2, 3)))
    wanted = -(psnr.mean() - 10 * math.log10(4)) * math.log(10) / 10
    assert psnr_loss(x_hq, x_gt).item() == pytest.approx(wanted.item(), abs=1e-3)


def test_psnr_loss_settles_on_the_mean_and_charbonnier_on_the_median() -> None:
    x_gt = torch.tensor([0.0, 0.0, 0.9]).repeat(100).view(1, 1, 1, -1)
    for loss, wanted in ((psnr_loss, 0.3), (charbonnier_loss, 0.0)):
        values = torch.linspace(-0.5, 1, 151)
        best = min(values, key=lambda v: loss(torch.full_like(x_gt, float(v)), x_gt).item())
        assert float(best) == pytest.approx(wanted, abs=0.006)


def test_easy_patches_count_as_much_as_hard_ones() -> None:
    """Errors of the input 0.055 and 0.335: weights 0.07 / 0.07 and 0.07 / 0.35; a perfect input counts 3 times."""
    x_gt = torch.zeros(3, 3, 4, 4)
    x_lq = torch.stack([torch.full((3, 4, 4), value) for value in (0.055, -0.335, 0.0)])
    weights = patch_weights(x_lq, x_gt)
    assert weights.tolist() == pytest.approx([1.0, 0.2, 3.0], rel=1e-3)
    x_hq = torch.stack([torch.full((3, 4, 4), value) for value in (0.5, 0.25, 0.1)])
    loss = charbonnier_loss(x_hq, x_gt, eps=0.0, weights=weights)
    assert loss.item() == pytest.approx((0.5 + 0.05 + 0.3) / 3, rel=1e-3)
    ramp = (torch.arange(5.0) * 0.1).expand(3, 3, 4, 5)
    assert gradient_loss(ramp, torch.zeros_like(ramp), weights).item() == pytest.approx(0.1 * 4.2 / 3, rel=1e-3)


def test_charbonnier_has_a_gradient_at_zero_error() -> None:
    x = _constant(0.3).requires_grad_()
    charbonnier_loss(x, _constant(0.3)).backward()
    assert x.grad is not None
    assert x.grad.abs().max().item() == 0.0  # finite: an L1 root without eps would give NaN


def test_laplace_loss_is_least_at_the_mean_error() -> None:
    """Errors of 0.1, 0.2 and 0.6 in the colours: their mean 0.3, where the loss is 1 + ln 0.3."""
    x_hq = torch.tensor([0.1, -0.2, 0.6]).view(1, 3, 1, 1).expand(1, 3, 12, 12)
    x_gt = torch.zeros(1, 3, 12, 12)

    def loss(u: float) -> float:
        return laplace_loss(x_hq, x_gt, torch.full((1, 3, 12, 12), u)).item()

    assert loss(0.3) == pytest.approx(1 + math.log(0.3), abs=1e-5)
    assert loss(0.3) < min(loss(0.28), loss(0.32))


def test_laplace_loss_compares_neighbourhoods_and_leaves_the_picture_alone() -> None:
    x_hq = torch.zeros(1, 3, 11, 11, requires_grad=True)
    x_gt = torch.zeros(1, 3, 11, 11)
    x_gt[..., 5, 5] = 0.9  # in all 9 windows of 9 x 9 that fit
    u = torch.full((1, 3, 11, 11), 0.5, requires_grad=True)
    loss = laplace_loss(x_hq, x_gt, u)
    assert loss.item() == pytest.approx(0.9 / 81 / 0.5 + math.log(0.5), abs=1e-5)
    loss.backward()
    assert x_hq.grad is None
    assert u.grad is not None
    assert u.grad[0, 0, 4:7, 4:7].abs().min() > 0
    assert u.grad[0, 0, :4].abs().max() == 0


def test_normalized_uncertainty() -> None:
    u = torch.tensor([-2.0, 0.0, 3.0])
    assert normalized_uncertainty(u, "abs").tolist() == [2, 0, 3]
    assert normalized_uncertainty(u, "sigmoid").tolist() == pytest.approx([0.1192029, 0.5, 0.9525741])


def test_uncertainty_loss_of_the_reference_by_hand() -> None:
    # U = 0: U_n = 1/2; |0.5 - 0| e^-1/2 + 2 * 1/2
    u_n = normalized_uncertainty(_constant(0.0), "sigmoid")
    loss = uncertainty_loss(_constant(0.5), _constant(0.0), u_n, alpha=2.0)
    assert loss.item() == pytest.approx(0.5 * math.exp(-0.5) + 1.0)


def test_l2_by_hand() -> None:
    x = torch.zeros(1, 3, 2, 2)
    x[0, 0, 0, 0] = 6.0
    assert l2_loss(x, torch.zeros_like(x)).item() == pytest.approx(36 / 12)


def test_csd_by_hand() -> None:
    """One pixel of each image, everything a round number.

    a = 0.64: z_t = 0.8 * 1 + 0.6 * 0.5 = 1.1. eps: prompt 0.3, negative 0.1; guidance 2 gives 0.5.
    real = (1.1 - 0.3) / 0.8 = 1, fake = (1.1 - 0.06) / 0.8 = 1.3. For z = 1 instead of the mean error 0,
    a second pixel has z = 3: z_t = 2.7, real = 3, fake = 3.3 with the same eps; so add an offset of 0.2
    to eps of that pixel: guided 0.7, real = (2.7 - 0.42) / 0.8 = 2.85, fake = (2.7 - 0.18) / 0.8 = 3.15.
    weight = mean(|1 - 1|, |3 - 2.85|) = 0.075; g = 0.3 / 0.075 = 4 for both: the loss is 16.
    """
    z = torch.tensor([1.0, 3.0]).view(1, 1, 1, 2).requires_grad_()
    noise = torch.tensor([0.5, 0.5]).view(1, 1, 1, 2)
    seen = []

    def predict(z_t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(z_t)
        assert not torch.is_grad_enabled()
        offset = torch.tensor([0.0, 0.2]).view(1, 1, 1, 2)
        return 0.3 + offset, 0.1 + offset

    loss = csd_loss(z, noise, torch.tensor([0.64]), predict, guidance=2.0)
    assert seen[0].flatten().tolist() == pytest.approx([1.1, 2.7])
    assert loss.item() == pytest.approx(16.0, rel=1e-4)
    loss.backward()
    assert z.grad is not None
    assert z.grad.flatten().tolist() == pytest.approx([2 * 4 / 2] * 2, rel=1e-4)  # 2 g / N


def test_csd_with_equal_prompts_is_zero() -> None:
    z = torch.randn(2, 4, 3, 3).requires_grad_()
    loss = csd_loss(z, torch.randn(2, 4, 3, 3), torch.tensor([0.5, 0.1]), lambda z_t: (z_t, z_t), guidance=7.5)
    assert loss.item() == 0.0


def test_lpips_by_hand() -> None:
    """The definition on the network's own features: unit vectors, squared difference, weights, mean, sum."""
    loss = PerceptualLoss(None)
    x, y = torch.rand(2, 1, 3, 64, 64).mul(2).sub(1).unbind(0)
    network = loss.network
    total = 0.0
    with torch.no_grad():
        features = [network.net(network.scaling_layer(image)) for image in (x, y)]
        for a, b, compare in zip(*features, network.lins, strict=True):
            unit = [f / (f.square().sum(1, keepdim=True).sqrt() + 1e-10) for f in (a, b)]
            weights = next(compare.parameters()).flatten()
            total += ((unit[0] - unit[1]).square() * weights.view(1, -1, 1, 1)).sum(1).mean().item()
        assert loss(x, y).item() == pytest.approx(total, rel=1e-4)
        assert loss(x, x).item() == 0.0
    assert min(next(compare.parameters()).min().item() for compare in network.lins) >= 0  # the trained ones
    assert not any(p.requires_grad for p in loss.parameters())


def test_lpips_takes_torchvisions_backbone(tmp_path: Path) -> None:
    from torchvision.models import vgg16

    torch.manual_seed(3)
    weights = vgg16(weights=None).features.state_dict()
    torch.save({f"features.{key}": value for key, value in weights.items()}, tmp_path / "vgg.pth")
    network = PerceptualLoss(tmp_path / "vgg.pth").network.net
    assert torch.equal(network.slice1[0].weight, weights["0.weight"])
    assert torch.equal(network.slice5[-2].weight, weights["28.weight"])


def test_missing_or_foreign_backbone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ValueError, match=rf"lpips_backbone: .*{VGG16} not found.*`lpips_weight` 0"):
        find_backbone("")
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x\.pth: not torchvision's vgg16"):
        PerceptualLoss(find_backbone(str(tmp_path / "x.pth")))
    (tmp_path / "y.pth").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"y\.pth: damaged"):
        PerceptualLoss(tmp_path / "y.pth")
