"""A prompt for each tile: against one tile done by hand, in our denoiser and in stock nodes."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

BLURRED = "The low-resolution image has very poor clarity, very blurry. There is severe noise."
SHARP = "The low-resolution image has excellent clarity, very sharp. There is no visible noise."


@pytest.fixture
def cut(node: Any, photo: Tensor) -> SimpleNamespace:
    """The 48 x 40 photo in 2 x 2 tiles of 32 x 32; a latent pixel of nano is one of the photo."""
    images, tiles = node.QUSRPhotoTiles.execute(photo, 32, 8).args
    assert images.shape == (4, 32, 32, 3)
    return SimpleNamespace(images=images, tiles=tiles)


def only_in(windows: Any, index: int, height: int, width: int) -> Tensor:
    """(height, width): the part of one window that no other covers."""
    count = torch.zeros(height, width)
    for window in windows:
        count[window.y0 : window.y1, window.x0 : window.x1] += 1
    mine = torch.zeros(height, width, dtype=torch.bool)
    one = windows[index]
    mine[one.y0 : one.y1, one.x0 : one.x1] = True
    return mine & (count == 1)


def denoise(node: Any, nano: Any, core: Any, conditioning: Any, latent: Any, tile: int = 0) -> Tensor:
    noise = core.sampling.DisableNoise.execute().args[0]
    return node.QUSROneStepDenoise.execute(nano.model, conditioning, latent, noise, 1.0, tile, 8).args[0]["samples"]


def encode(node: Any, nano: Any, prompts: list[str], tiles: Any = None) -> Any:
    return node.QUSREncodePrompt.execute([nano.clip], prompts, [tiles] if tiles else None).args[0]


def test_each_tile_is_as_if_done_by_hand(
    node: Any, nano: Any, core: Any, separate: Any, photo: Tensor, cut: Any
) -> None:
    prompts = [SHARP, BLURRED, node.QUSRQualityPrompt.execute(photo).args[0][0], "black and white"]
    latent = separate(photo).latent
    together = denoise(node, nano, core, encode(node, nano, prompts, cut.tiles), latent)
    for index, window in enumerate(cut.tiles.windows):
        one = {"samples": window.of(latent["samples"]).contiguous()}
        alone = denoise(node, nano, core, encode(node, nano, prompts[index : index + 1]), one)
        place = only_in(cut.tiles.windows, index, 48, 40)
        assert place.sum() > 100
        by_hand = torch.zeros_like(together)
        window.of(by_hand).copy_(alone)
        assert torch.allclose(together[..., place], by_hand[..., place], atol=1e-5)


def test_stock_sampler_gives_the_same(node: Any, nano: Any, core: Any, separate: Any, photo: Tensor, cut: Any) -> None:
    parts = separate(photo)
    conditioning = encode(node, nano, [SHARP, BLURRED] * 2, cut.tiles)
    ours = node.QUSROneStepDenoise.execute(nano.model, conditioning, parts.latent, parts.noise, 1.0, 0, 0).args[0]
    guider = core.sampling.BasicGuider.execute(nano.model, conditioning).args[0]
    sampler = core.sampling.KSamplerSelect.execute("euler").args[0]
    sigmas = core.sampling.BasicScheduler.execute(nano.model, "simple", 1, 1.0).args[0]
    stock = core.sampling.SamplerCustomAdvanced.execute(parts.noise, guider, sampler, sigmas, parts.latent).args[0]
    assert torch.equal(ours["samples"], stock["samples"])


def test_a_prompt_changes_its_own_tile_only(
    node: Any, nano: Any, core: Any, separate: Any, photo: Tensor, cut: Any
) -> None:
    latent = separate(photo).latent
    one = denoise(node, nano, core, encode(node, nano, [SHARP] * 4, cut.tiles), latent)
    other = denoise(node, nano, core, encode(node, nano, [SHARP, SHARP, BLURRED, SHARP], cut.tiles), latent)
    window = cut.tiles.windows[2]
    outside = torch.ones(48, 40, dtype=torch.bool)
    outside[window.y0 : window.y1, window.x0 : window.x1] = False
    assert torch.equal(one[..., outside], other[..., outside])
    assert (one - other).abs().max() > 1e-3


def test_tiles_of_the_denoiser_go_on_inside(
    node: Any, nano: Any, core: Any, separate: Any, photo: Tensor, cut: Any
) -> None:
    latent = separate(photo).latent
    conditioning = encode(node, nano, [SHARP, BLURRED] * 2, cut.tiles)
    passes: list[int] = []
    hook = nano.model.model.diffusion_model.register_forward_hook(lambda *_: passes.append(1))
    whole = denoise(node, nano, core, conditioning, latent)
    once = len(passes)
    tiled = denoise(node, nano, core, conditioning, latent, tile=24)
    hook.remove()
    assert len(passes) - once > once, "the tiled path did not run"
    assert (whole - tiled).abs().max() < 0.1


def test_images_of_a_batch_keep_their_own_tiles(node: Any, nano: Any, core: Any, separate: Any, photo: Tensor) -> None:
    batch = torch.cat([photo, photo.flip(2) * 0.6])
    images, tiles = node.QUSRPhotoTiles.execute(batch, 32, 8).args
    assert torch.equal(images[4:], node.QUSRPhotoTiles.execute(batch[1:], 32, 8).args[0])
    prompts = node.QUSRQualityPrompt.execute(images).args[0]
    both = denoise(node, nano, core, encode(node, nano, prompts, tiles), separate(batch).latent)
    _, own = node.QUSRPhotoTiles.execute(batch[1:], 32, 8).args
    second = denoise(node, nano, core, encode(node, nano, prompts[4:], own), separate(batch[1:]).latent)
    assert torch.allclose(both[1:], second, atol=1e-5)


def test_all_in_one_takes_the_same_prompts(
    node: Any, nano: Any, separate: Any, upscale: Any, photo: Tensor, cut: Any
) -> None:
    prompts = node.QUSRQualityPrompt.execute(cut.images).args[0]
    assert len(set(prompts)) > 1
    parts = separate(photo, seed=3)
    conditioning = encode(node, nano, prompts, cut.tiles)
    latent = node.QUSROneStepDenoise.execute(nano.model, conditioning, parts.latent, parts.noise, 1.0, 0, 0).args[0]
    by_nodes = node.QUSRColorFix.execute(nano.vae.decode(latent["samples"]), parts.bicubic, "wavelet").args[0]
    given = upscale(photo, seed=3, prompt=prompts, tiles=[cut.tiles])
    measured = upscale(photo, seed=3, prompt="", tiles=[cut.tiles])
    assert torch.equal(given[0], by_nodes)
    assert torch.equal(measured[0], by_nodes)
    assert given[3].splitlines() == prompts
    assert not torch.equal(upscale(photo, seed=3)[0], by_nodes)
    typed = upscale(photo, seed=3, prompt=SHARP, tiles=[cut.tiles])
    assert torch.equal(typed[0], upscale(photo, seed=3, prompt=[SHARP] * 4, tiles=[cut.tiles])[0])


def test_what_does_not_fit_together_is_named(node: Any, nano: Any, upscale: Any, photo: Tensor, cut: Any) -> None:
    with pytest.raises(ValueError, match="prompt: got 3 prompts for 4 tiles"):
        encode(node, nano, ["a", "b", "c"], cut.tiles)
    with pytest.raises(ValueError, match="tiles: were cut from a photo of 40 x 48, but image is 40 x 24"):
        upscale(photo[:, :24], tiles=[cut.tiles])
    with pytest.raises(ValueError, match="prompt: got 2 prompts for 4 tiles"):
        upscale(photo, prompt=["a", "b"], tiles=[cut.tiles])


def test_a_small_photo_is_one_tile(node: Any, upscale: Any, photo: Tensor) -> None:
    images, tiles = node.QUSRPhotoTiles.execute(photo, 256, 32).args
    assert torch.equal(images, photo)
    assert torch.equal(upscale(photo, tiles=[tiles])[0], upscale(photo)[0])


def test_no_line_of_any_latent_is_left_out(pack: Any) -> None:
    """Areas go through ComfyUI's own rounding; a latent pixel is one of the photo (nano) or two (SD)."""
    import comfy.samplers

    grid, tiles = pack.qusr_train.images.tiling.grid, pack.nodes.tiles.PhotoTiles
    for side, tile, overlap, fold in itertools.product(range(33, 120), (32, 40), (0, 8), (1, 2)):
        windows = tuple(grid(side, 32, tile, overlap))
        latent = -(-side // fold)
        entries = [{"area": area} for area in tiles(windows, side, 32, 1).areas]
        comfy.samplers.resolve_areas_and_cond_masks_multidim(entries, (latent, 32 // fold), torch.device("cpu"))
        covered = torch.zeros(latent)
        for entry in entries:
            height, _, y, _ = entry["area"]
            covered[y : y + height] += 1
        assert covered.min() >= 1, (side, tile, overlap, fold)
