"""The adversarial loss: it learns to tell, the model can mislead it, and crops belong together."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from qusr_train.training.config import TrainConfig
from qusr_train.training.crops import same_crops
from qusr_train.training.discriminator import Adversary, PatchDiscriminator
from qusr_train.training.step import StepNoise


def _config(**changes: Any) -> TrainConfig:
    return TrainConfig("photos", "out", **{"adversarial_weight": 0.1, "discriminator_learning_rate": 2e-3, **changes})


ONE_PROCESS = SimpleNamespace(num_processes=1)


def test_one_verdict_for_each_eight_pixels_and_spectral_norm_one() -> None:
    network = PatchDiscriminator()
    assert network(torch.rand(2, 3, 32, 48), torch.rand(2, 3, 32, 48)).shape == (2, 1, 4, 6)
    for _ in range(200):  # power iterations
        network(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8))
    for layer in network.blocks:
        weight = layer.weight
        assert isinstance(weight, Tensor)
        assert torch.linalg.matrix_norm(weight.flatten(1), 2).item() == pytest.approx(1.0, abs=0.02)


def test_crops_belong_together_and_lie_at_any_pixel() -> None:
    picture = torch.arange(4 * 64 * 64.0).view(4, 1, 64, 64).expand(4, 3, 64, 64)
    one, other = same_crops([picture, picture + 0.5], 32, StepNoise(1, 0, 0, 4, 4))
    assert one.shape == (4, 3, 32, 32)
    assert torch.equal(other - one, torch.full_like(one, 0.5))
    corners = one[:, 0, 0, 0] - picture[:, 0, 0, 0]
    assert len(set(corners.tolist())) > 1
    assert any(corner % 4 for corner in corners.tolist())
    part = same_crops([picture[2:]], 32, StepNoise(1, 0, 2, 2, 4))[0]
    assert torch.equal(part, one[2:])  # another process sees the same
    assert same_crops([picture], 100, StepNoise(1, 0, 0, 4, 4))[0].shape == picture.shape


def test_weight_waits_and_rises() -> None:
    adversary = Adversary(_config(adversarial_start=10, adversarial_ramp=5))
    weights = [adversary.weight(step) for step in (0, 9, 10, 12, 14, 1000)]
    assert weights == pytest.approx([0, 0, 0.02, 0.06, 0.1, 0.1])


def test_learns_to_tell_restored_from_target() -> None:
    adversary = Adversary(_config())
    x_lq = torch.zeros(4, 3, 32, 32)
    x_hq, verdicts = torch.zeros(4, 3, 32, 32), []
    for _ in range(40):
        x_gt = 0.5 * torch.randn(4, 3, 32, 32)  # texture where the restored picture has none
        figures = adversary.learn(x_hq, x_gt, x_lq, nullcontext)
        adversary.update(1.0, ONE_PROCESS)
        verdicts.append((figures["verdict_target"] - figures["verdict_restored"]).item())
    assert verdicts[-1] > 1 > verdicts[0]
    assert adversary.optimizer.param_groups[0]["lr"] == 2e-3


def test_learns_to_see_a_grid_that_is_faint_beside_the_contrast() -> None:
    torch.manual_seed(0)
    adversary, verdicts = Adversary(_config()), []
    grid = torch.zeros(1, 1, 32, 32)
    grid[..., ::4] = 0.03
    for _ in range(60):
        x_gt = (
            torch.rand(8, 3, 1, 1) * 2
            - 1
            + 0.5 * torch.randn(8, 3, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
        )
        figures = adversary.learn(x_gt + grid, x_gt, x_gt, nullcontext)
        adversary.update(1.0, ONE_PROCESS)
        verdicts.append((figures["verdict_target"] - figures["verdict_restored"]).item())
    assert verdicts[-1] > 1


def test_model_gets_a_gradient_and_the_discriminator_none() -> None:
    adversary = Adversary(_config())
    x_hq = torch.zeros(1, 3, 32, 32, requires_grad=True)
    loss = adversary.loss(x_hq, torch.zeros(1, 3, 32, 32), nullcontext)
    adversary.learn(x_hq, torch.rand(1, 3, 32, 32), torch.zeros(1, 3, 32, 32), nullcontext)
    learned = [p.grad.clone() for p in adversary.discriminator.parameters() if p.grad is not None]
    assert x_hq.grad is None
    loss.backward()
    assert x_hq.grad is not None
    assert x_hq.grad.abs().max() > 0
    now = [p.grad for p in adversary.discriminator.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(learned, now, strict=True))


def test_state_goes_on_bit_for_bit() -> None:
    def steps(adversary: Adversary, seeds: range) -> None:
        for seed in seeds:
            x = torch.rand(3, 1, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
            adversary.learn(*x.unbind(0), nullcontext)
            adversary.update(0.5, ONE_PROCESS)

    straight = Adversary(_config())
    resumed = Adversary(_config())  # other weights until the state is read
    steps(straight, range(2))
    resumed.load_state(copy.deepcopy(straight.state()))
    steps(straight, range(2, 4))
    saved = {name: value.clone() for name, value in straight.state()["discriminator"].items()}
    steps(resumed, range(2, 4))
    assert all(torch.equal(value, saved[name]) for name, value in resumed.state()["discriminator"].items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adversarial_crop": 20}, "adversarial_crop: must be a multiple of 8 and at least 32, but got 20"),
        ({"precision": "fp16"}, "adversarial_weight: its two optimisers need precision `bf16` or `no`"),
        ({"stage": "sd21", "init": "x"}, "adversarial_weight: only for nano"),
    ],
)
def test_impossible_settings_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _config(**changes)
