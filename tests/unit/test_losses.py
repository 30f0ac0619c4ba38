"""Losses against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from qusr_train.losses import charbonnier_loss, gradient_loss, uncertainty_loss


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


def test_charbonnier_has_a_gradient_at_zero_error() -> None:
    x = _constant(0.3).requires_grad_()
    charbonnier_loss(x, _constant(0.3)).backward()
    assert x.grad is not None
    assert x.grad.abs().max().item() == 0.0  # finite: an L1 root without eps would give NaN
