"""LoRA inside the weight: it equals peft's, trains only itself, and comes back as files have it."""

from __future__ import annotations

import copy

import pytest
import torch

from qusr_train.model.lora import LoraLayer, add_adapters, merge, target_layers
from qusr_train.model.merged_lora import LowRankUpdate, add_merged_lora, extract_merged_lora
from qusr_train.model.nano import NanoConfig, NanoUNet

pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
RANK = 3


@pytest.fixture
def unet(tiny_config: NanoConfig) -> NanoUNet:
    return NanoUNet(tiny_config).eval()


@pytest.fixture
def adapted(unet: NanoUNet) -> NanoUNet:
    """A copy with updates of random weights."""
    model = copy.deepcopy(unet)
    add_merged_lora(model, RANK)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, LowRankUpdate):
                module.up.normal_(std=0.1)
    return model


def _inputs() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(1, 48, 4, 6), torch.randn(1, 77, 32)


def test_starts_as_the_same_model_and_trains_the_updates_only(unet: NanoUNet) -> None:
    z, context = _inputs()
    before = unet(z, context=context)
    add_merged_lora(unet, RANK)
    assert torch.equal(unet(z, context=context), before)
    names = [name for name, p in unet.named_parameters() if p.requires_grad]
    assert len(names) == 2 * len(target_layers(unet)) > 0
    assert all(name.endswith((".weight.0.up", ".weight.0.down")) for name in names)


def test_extracted_updates_merged_into_the_original_give_the_same_model(unet: NanoUNet, adapted: NanoUNet) -> None:
    z, context = _inputs()
    lora = extract_merged_lora(adapted)
    assert lora.keys() == target_layers(unet).keys()
    assert {(layer.down.shape[0], layer.alpha) for layer in lora.values()} == {(RANK, float(RANK))}
    original = unet(z, context=context)
    merge(unet, lora)
    result = adapted(z, context=context)
    torch.testing.assert_close(unet(z, context=context), result, atol=1e-5, rtol=1e-5)
    assert (result - original).abs().max() > 0.01


def test_goes_on_with_updates_of_another_alpha(unet: NanoUNet, adapted: NanoUNet) -> None:
    z, context = _inputs()
    lora = extract_merged_lora(adapted)
    other = {name: LoraLayer(layer.down, layer.up * (RANK / 8.0), 8.0) for name, layer in lora.items()}
    with pytest.raises(ValueError, match="rank: expected that of the LoRA to go on with, 3, but got 5"):
        add_merged_lora(unet, 5, other)
    add_merged_lora(unet, RANK, other)
    torch.testing.assert_close(unet(z, context=context), adapted(z, context=context), atol=1e-5, rtol=1e-5)


def test_equals_pefts_adapters_of_the_same_weights(unet: NanoUNet, adapted: NanoUNet) -> None:
    z, context = _inputs()
    peft = copy.deepcopy(unet)
    add_adapters(peft, rank=RANK, alpha=float(RANK))
    lora = extract_merged_lora(adapted)
    with torch.no_grad():
        for name, value in peft.named_parameters():
            if ".lora_A." in name:
                value.copy_(lora[name.split(".lora_A.")[0]].down)
            elif ".lora_B." in name:
                value.copy_(lora[name.split(".lora_B.")[0]].up)
    torch.testing.assert_close(peft(z, context=context), adapted(z, context=context), atol=1e-5, rtol=1e-5)
