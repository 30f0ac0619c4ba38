"""qusr-nano: starts at bicubic, takes any size, loses nothing in its VAE."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from qusr_train.images.tiling import exact_tiles
from qusr_train.model.nano import NanoConfig, NanoUNet, PixelUnshuffleVAE, ResidualBlock

SIZES = [(1, 1), (1, 6), (3, 7), (4, 4), (5, 2)]


@pytest.fixture
def unet(tiny_config: NanoConfig) -> NanoUNet:
    torch.manual_seed(0)
    return NanoUNet(tiny_config)


def _context(batch: int = 1, width: int = 32) -> torch.Tensor:
    return torch.randn(batch, 77, width)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_untrained_model_returns_its_input_exactly(unet: NanoUNet, height: int, width: int) -> None:
    unet.start_as_identity()
    vae, x = PixelUnshuffleVAE(4), torch.rand(2, 3, 4 * height, 4 * width) * 2 - 1
    z = vae.encode(x)
    assert torch.equal(vae.decode(z - unet(z, context=_context(2))), x)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_any_latent_size_keeps_its_shape(unet: NanoUNet, height: int, width: int) -> None:
    z = torch.randn(1, 48, height, width)
    eps = unet(z, context=_context())
    assert eps.shape == z.shape
    assert eps.abs().max() > 0


def test_three_levels_take_odd_sizes() -> None:
    unet = NanoUNet(NanoConfig(channels=(4, 4, 4), blocks=1, heads=1, text_dim=32))
    assert unet(torch.randn(1, 48, 7, 5), context=_context()).shape == (1, 48, 7, 5)


def test_odd_size_equals_the_padded_size_cropped(unet: NanoUNet) -> None:
    z, context = torch.randn(1, 48, 3, 5), _context()
    padded = torch.nn.functional.pad(z, (0, 1, 0, 1), mode="replicate")
    torch.testing.assert_close(unet(z, context=context), unet(padded, context=context)[..., :3, :5])


def test_every_branch_starts_as_identity(unet: NanoUNet) -> None:
    unet.start_as_identity()
    x, context = torch.randn(1, 8, 4, 4), _context()
    assert torch.equal(unet.mid_in(x), x)
    assert torch.equal(unet.down_blocks[0](x), x)
    assert torch.equal(unet.mid_attention(x, context), x)


def test_identity_start_can_still_learn(unet: NanoUNet) -> None:
    unet.start_as_identity()
    unet(torch.randn(1, 48, 4, 4), context=_context()).sum().backward()
    assert unet.conv_out.weight.grad is not None
    assert unet.conv_out.weight.grad.abs().max() > 0


def test_prompt_changes_the_residual_and_the_timestep_does_not(unet: NanoUNet) -> None:
    z, context = torch.randn(1, 48, 4, 4), _context()
    eps = unet(z, context=context)
    assert torch.equal(unet(z, torch.tensor([999]), context=context), eps)
    assert (unet(z, context=_context()) - eps).abs().max() > 1e-4


def test_images_of_a_batch_do_not_touch_each_other(unet: NanoUNet) -> None:
    z, context = torch.randn(3, 48, 4, 6), _context(3)
    alone = torch.cat([unet(z[i : i + 1], context=context[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(unet(z, context=context), alone, atol=1e-5, rtol=1e-5)


def test_context_of_another_width_is_refused(unet: NanoUNet) -> None:
    with pytest.raises(ValueError, match=r"width 32, but got 768.*qusr-nano's own CLIP"):
        unet(torch.randn(1, 48, 2, 2), context=_context(width=768))


def test_missing_context_is_refused(unet: NanoUNet) -> None:
    with pytest.raises(ValueError, match="needs an encoded quality prompt"):
        unet(torch.randn(1, 48, 2, 2))


def test_weights_are_made_in_the_wanted_precision(tiny_config: NanoConfig) -> None:
    unet = NanoUNet(tiny_config, dtype=torch.bfloat16)
    assert unet.dtype == torch.bfloat16
    assert {p.dtype for p in unet.parameters()} == {torch.bfloat16}


def test_default_model_fits_ten_megabytes() -> None:
    assert sum(p.numel() for p in NanoUNet(NanoConfig()).parameters()) * 2 < 9e6  # text encoder and UEM: under 1 MB


@pytest.mark.parametrize("shuffle", [1, 2, 4])
def test_pixel_unshuffle_is_lossless(shuffle: int) -> None:
    vae, x = PixelUnshuffleVAE(shuffle), torch.randn(2, 3, 8, 12)
    z = vae.encode(x)
    assert z.shape == (2, 3 * shuffle**2, 8 // shuffle, 12 // shuffle)
    assert torch.equal(vae.decode(z), x)


def test_latent_channels_are_colour_major() -> None:
    x = torch.zeros(1, 3, 4, 4)
    x[0, 1, 2, 3] = 1.0  # colour 1, row 2, column 3
    assert PixelUnshuffleVAE(4).encode(x).flatten().nonzero().item() == 1 * 16 + 2 * 4 + 3


@pytest.mark.parametrize("size", [(6, 8), (8, 6)])
def test_encode_refuses_sizes_between_blocks(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"multiples of 4, but got {size[1]} x {size[0]}"):
        PixelUnshuffleVAE(4).encode(torch.zeros(1, 3, *size))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks": 0}, "blocks must be at least 1"),
        ({"film": -1}, "film must be at least 0"),
        ({"uem": "other"}, "uem must be paper or error"),
        ({"uem_channels": -1}, "uem_channels must be at least 1"),
        ({"channels": ()}, "channels must be positive"),
        ({"channels": (8, 0)}, "channels must be positive"),
        ({"channels": (8, 9), "heads": 2}, "divisible by heads=2"),
    ],
)
def test_config_refuses_impossible_shapes(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NanoConfig(**change)


def test_config_from_json_equals_config_from_code() -> None:
    assert NanoConfig(channels=[8, 16]) == NanoConfig(channels=(8, 16))  # type: ignore[arg-type]
    assert NanoConfig(shuffle=2).latent_channels == 12


def test_film_lets_the_prompt_reach_every_block(tiny_config: NanoConfig) -> None:
    torch.manual_seed(0)
    model = NanoUNet(dataclasses.replace(tiny_config, film=8)).eval()
    layers = [module.film for module in model.modules() if isinstance(module, ResidualBlock)]
    assert all(layer is not None for layer in layers)
    z, context = torch.randn(1, model.config.latent_channels, 8, 8), torch.randn(2, 77, tiny_config.text_dim)
    outputs = model(z.expand(2, -1, -1, -1), context=context)
    assert (outputs[0] - outputs[1]).abs().max() > 1e-4
    model.start_as_identity()
    assert torch.equal(model(z, context=context[:1]), torch.zeros_like(z))


def test_without_film_the_state_is_that_of_version_0_1(tiny_config: NanoConfig) -> None:
    assert not [name for name in NanoUNet(tiny_config).state_dict() if "film" in name or "prompt_vector" in name]


@pytest.mark.parametrize(("channels", "blocks"), [((8, 8), 1), ((8, 8, 16), 2)])
def test_tiles_with_the_receptive_radius_give_the_whole_picture(channels: tuple[int, ...], blocks: int) -> None:
    torch.manual_seed(0)
    model = NanoUNet(NanoConfig(channels=channels, blocks=blocks, heads=2, text_dim=32, text_layers=1, film=4)).eval()
    margin, z, context = model.receptive_radius, torch.randn(1, 48, 100, 130), _context()
    whole = model(z, context=context)
    tiled = exact_tiles(z, lambda window, _: model(window, context=context), 32, margin)
    torch.testing.assert_close(tiled, whole, atol=1e-5, rtol=0)
    short = exact_tiles(z, lambda window, _: model(window, context=context), 32, 4)
    assert (short - whole).abs().max() > 1e-4
