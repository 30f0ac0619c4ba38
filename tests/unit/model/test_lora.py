"""LoRA: which layers, which scale, and that merging equals peft."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from qusr_train.model.lora import LoraLayer, add_adapters, extract_adapters, group_of, merge, target_layers
from qusr_train.model.nano import NanoConfig, NanoUNet

pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`")

NANO_LAYERS = {
    "conv_in": "encoder",
    "down_blocks.0.0.conv1": "encoder",
    "down_blocks.0.0.conv2": "encoder",
    "downsamplers.0.conv": "encoder",
    "up_blocks.0.0.conv1": "decoder",
    "up_blocks.0.0.conv2": "decoder",
    "upsamplers.0.conv": "decoder",
    "conv_out": "decoder",
    "mid_in.conv1": "others",
    "mid_in.conv2": "others",
    "mid_attention.to_q": "others",
    "mid_attention.to_k": "others",
    "mid_attention.to_v": "others",
    "mid_attention.to_out.0": "others",
    "mid_out.conv1": "others",
    "mid_out.conv2": "others",
}


@pytest.fixture
def unet(tiny_config: NanoConfig) -> NanoUNet:
    torch.manual_seed(0)
    return NanoUNet(tiny_config).eval()


def _inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1, 48, 4, 6, generator=generator), torch.randn(1, 77, 32, generator=generator)


def _adapted(unet: NanoUNet, rank: int = 4, alpha: float = 8.0) -> NanoUNet:
    """A copy with peft adapters of random weights on both sides."""
    adapted = copy.deepcopy(unet)
    add_adapters(adapted, rank=rank, alpha=alpha)
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if "lora_" in name:
                value.normal_(std=0.1)
    return adapted


def test_default_scale_is_two() -> None:
    # up @ down sums over rank 4: 4 * (1 * 0.5) = 2; times alpha / rank = 2
    layer = LoraLayer(down=torch.full((4, 3), 0.5), up=torch.ones(5, 4), alpha=8.0)
    assert torch.equal(layer.delta(), torch.full((5, 3), 4.0))


def test_convolution_delta_has_the_kernels_shape() -> None:
    down, up = torch.randn(2, 3, 3, 3), torch.randn(5, 2, 1, 1)
    delta = LoraLayer(down, up, alpha=2.0).delta()
    expected = sum(up[4, r, 0, 0] * down[r, 1, 2, 0] for r in range(2))
    assert delta.shape == (5, 3, 3, 3)
    torch.testing.assert_close(delta[4, 1, 2, 0], expected)


def test_nano_layers_and_their_adapters(unet: NanoUNet) -> None:
    assert target_layers(unet) == NANO_LAYERS


def test_norms_and_unnamed_layers_get_no_lora() -> None:
    model = nn.ModuleDict({"conv_norm_out": nn.Conv2d(1, 1, 1), "to_q": nn.LayerNorm(4), "linear_1": nn.Linear(2, 2)})
    assert target_layers(model) == {}


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k", "encoder"),
        ("down_blocks.2.downsamplers.0.conv", "encoder"),
        ("up_blocks.0.upsamplers.0.conv", "decoder"),
        ("up_blocks.3.resnets.2.conv_shortcut", "decoder"),
        ("mid_block.resnets.0.conv1", "others"),
    ],
)
def test_stable_diffusion_layers_go_to_the_references_adapter(name: str, group: str) -> None:
    assert group_of(name) == group


def test_new_adapters_change_nothing_and_only_they_train(unet: NanoUNet) -> None:
    adapted = copy.deepcopy(unet)
    add_adapters(adapted)
    z, context = _inputs()
    torch.testing.assert_close(adapted(z, context=context), unet(z, context=context))
    trainable = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert all(".lora_A.default_" in name or ".lora_B.default_" in name for name in trainable)
    assert {name.split(".lora_")[0] for name in trainable} == set(NANO_LAYERS)


@pytest.mark.usefixtures("float32_products")
@pytest.mark.parametrize(("rank", "alpha"), [(4, 8.0), (2, 8.0), (3, 3.0)])
def test_merged_model_equals_peft(unet: NanoUNet, rank: int, alpha: float) -> None:
    adapted, merged = _adapted(unet, rank, alpha), copy.deepcopy(unet)
    lora = extract_adapters(adapted, alpha)
    assert set(lora) == set(NANO_LAYERS)
    merge(merged, lora)
    z, context = _inputs()
    with torch.no_grad():
        expected = adapted(z, context=context)
        assert (expected - unet(z, context=context)).abs().max() > 0.05
        torch.testing.assert_close(merged(z, context=context), expected, atol=1e-5, rtol=1e-5)


def test_extracted_adapters_are_copies_without_gradient(unet: NanoUNet) -> None:
    layer = extract_adapters(_adapted(unet))["conv_in"]
    assert layer.down.shape == (4, 48, 3, 3)
    assert layer.up.shape == (8, 4, 1, 1)
    assert not layer.down.requires_grad


def test_merge_scales_with_its_strength(unet: NanoUNet) -> None:
    layer = LoraLayer(torch.ones(1, 8), torch.ones(8, 1), alpha=1.0)
    before = unet.mid_attention.to_q.weight.detach().clone()
    merge(unet, {"mid_attention.to_q": layer}, strength=-0.5)
    torch.testing.assert_close(unet.mid_attention.to_q.weight.detach(), before - 0.5)
    merge(unet, {"mid_attention.to_q": layer}, strength=0.5)
    torch.testing.assert_close(unet.mid_attention.to_q.weight.detach(), before)


def test_merge_refuses_an_unknown_layer(unet: NanoUNet) -> None:
    layer = LoraLayer(torch.ones(1, 8), torch.ones(8, 1), alpha=1.0)
    with pytest.raises(ValueError, match=r"LoRA layer mid_attention\.to_x: .*no such layer"):
        merge(unet, {"mid_attention.to_x": layer})


def test_merge_refuses_another_shape(unet: NanoUNet) -> None:
    layer = LoraLayer(torch.ones(1, 9), torch.ones(8, 1), alpha=1.0)
    with pytest.raises(ValueError, match=r"to_q: expected a weight of \(8, 9\), but found .*\(8, 8\)"):
        merge(unet, {"mid_attention.to_q": layer})
