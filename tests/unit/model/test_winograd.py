"""The fast convolution equals the direct one, and takes over where it pays only."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from qusr_train.model import winograd
from qusr_train.model.winograd import convolve, fast_convolutions, pays


@pytest.mark.parametrize(("height", "width"), [(4, 4), (1, 1), (7, 9), (64, 70), (3, 600)])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_the_direct_sum_at_any_size(height: int, width: int, bias: bool) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 96, height, width, generator=g)
    layer = nn.Conv2d(96, 101, 3, padding=1, bias=bias)
    weight, shift = layer.weight.detach(), layer.bias.detach() if layer.bias is not None else None
    true = F.conv2d(x.double(), weight.double(), None if shift is None else shift.double(), padding=1)
    error = convolve(x, weight, shift).double() - true
    assert error.abs().max() < 3e-5 * true.std()
    assert error.square().mean().sqrt() < 3e-6 * true.std()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_takes_over_the_layers_of_a_network(layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []
    original = winograd.convolve

    def counted(x: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        calls.append(tuple(x.shape))
        return original(x, *rest)

    monkeypatch.setattr(winograd, "convolve", counted)
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 96, 3, padding=1),
        nn.Conv2d(96, 96, 3, padding=1),
        nn.Conv2d(96, 96, 3, padding=1, stride=2),
        nn.Conv2d(96, 96, 1),
        nn.Conv2d(96, 96, 3, padding=(1, 1)),
    ).to(memory_format=layout)
    x = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        direct = network(x)
        with fast_convolutions():
            fast = network(x)
    assert calls == [(1, 96, 128, 128), (1, 96, 64, 64)]
    torch.testing.assert_close(fast, direct, atol=1e-5, rtol=1e-5)


def test_pays_for_large_float32_layers_without_gradients() -> None:
    x, weight = torch.zeros(1, 96, 64, 64), torch.zeros(96, 96, 3, 3)
    assert pays(x, weight)
    assert not pays(x[:, :, :56], weight), "too few pixels"
    assert not pays(x.half(), weight.half())
    assert not pays(x.to("meta"), weight.to("meta"))
    assert not pays(x, weight[:64]), "too few channels"
    assert not pays(x, weight[..., :1])
    assert not pays(x.clone().requires_grad_(), weight), "training"
