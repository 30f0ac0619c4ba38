"""Any size: exact tiles equal the whole, odd sizes and batches work, memory shortage shrinks the tile."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support import golden


@pytest.fixture(scope="module")
def sd(pack: Any) -> SimpleNamespace:
    """The golden model with QUSR on it."""
    base = golden.golden_unet()
    checkpoint = pack.qusr_train.checkpoints.load.load_checkpoint(golden.GOLDEN / "checkpoints" / "qusr.pkl")
    module = pack.nodes.native.stable_diffusion
    return SimpleNamespace(
        model=module.apply_checkpoint(base, checkpoint),
        uem=module.loaded_uem(base, checkpoint),
        vae=golden.golden_vae(),
        clip=golden.golden_clip(),
    )


@pytest.fixture
def vae_module(pack: Any) -> Any:
    return pack.nodes.native.vae


def _image(height: int, width: int, batch: int = 1) -> Tensor:
    return torch.rand(batch, height, width, 3, generator=torch.Generator().manual_seed(height * width))


@pytest.mark.parametrize("size", [(136, 200), (72, 264), (256, 128)])
@pytest.mark.parametrize("tile", [64, 128])
def test_exact_tiles_equal_the_whole(vae_module: Any, sd: Any, size: tuple[int, int], tile: int) -> None:
    image = _image(*size)
    whole, tiled = vae_module.encode(sd.vae, image), vae_module.encode(sd.vae, image, tile)
    assert (whole - tiled).abs().max() < 1e-4 * whole.abs().max()
    assert not torch.equal(whole, tiled), "the tiles did not run"
    decoded, in_tiles = vae_module.decode(sd.vae, whole), vae_module.decode(sd.vae, whole, tile)
    assert (decoded - in_tiles).abs().max() < 1e-4  # the promise is 1/255
    blended = vae_module.decode(sd.vae, whole, tile, "blended")
    assert (decoded - blended).abs().max() > 1 / 255, "blended tiles are exact here, so this test shows nothing"


def test_keys_and_values_in_parts_give_the_same(
    vae_module: Any, pack: Any, sd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for images beyond 2048 x 2048; here 33 x 25 positions in parts of 100."""
    exact = pack.qusr_train.model.exact_vae
    monkeypatch.setattr(exact, "RESIDENT_POSITIONS", 800)
    monkeypatch.setattr(exact, "STREAMED_AT_ONCE", 100)
    calls = []
    streamed = exact.streamed_attention
    monkeypatch.setattr(exact, "streamed_attention", lambda *a: calls.append(len(a)) or streamed(*a))
    image = _image(264, 200)
    whole, tiled = vae_module.encode(sd.vae, image), vae_module.encode(sd.vae, image, 128)
    assert calls
    assert (whole - tiled).abs().max() < 1e-4 * whole.abs().max()
    q, k, v = torch.randn(3, 1, 1, 450, 16, generator=torch.Generator().manual_seed(0)).unbind(0)
    plain = torch.nn.functional.scaled_dot_product_attention(30 * q, k, v)
    assert (streamed(30 * q, k, v) - plain).abs().max() < 1e-5


def test_whole_equals_comfyuis_own(vae_module: Any, sd: Any) -> None:
    """Up to the order in which the attention adds up: on a CPU it is torch's, ComfyUI takes the sub-quadratic one."""
    image = _image(64, 96)
    latent = sd.vae.encode(image)
    torch.testing.assert_close(vae_module.encode(sd.vae, image), latent, atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(vae_module.decode(sd.vae, latent), sd.vae.decode(latent), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("size", [(1, 9), (7, 130), (65, 64)])
def test_any_size_is_padded_and_cut_again(node: Any, sd: Any, size: tuple[int, int]) -> None:
    image = _image(*size)
    latent = node.QUSREncode.execute(image, sd.vae, 0, "exact").args[0]
    assert latent["samples"].shape[-2:] == (-(-size[0] // 8), -(-size[1] // 8))
    assert node.QUSRDecode.execute(latent, sd.vae, 0, "exact").args[0].shape == image.shape
    resized = {**latent, "samples": torch.nn.functional.interpolate(latent["samples"], scale_factor=3.0)}
    assert node.QUSRDecode.execute(resized, sd.vae, 0, "exact").args[0].shape[1] == 24 * -(-size[0] // 8)


def test_sampled_posterior_has_the_posteriors_spread(node: Any, vae_module: Any, sd: Any) -> None:
    image = _image(64, 64)
    mean = node.QUSREncode.execute(image, sd.vae, 0, "exact", "mean").args[0]["samples"]
    one, again, other = (
        node.QUSREncode.execute(image, sd.vae, 0, "exact", "sample", seed).args[0]["samples"] for seed in (1, 1, 2)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert (one - mean).abs().mean() > 0
    with pytest.raises(ValueError, match="posterior"):
        node.QUSREncode.execute(image, sd.vae, 64, "blended", "sample", 1)


# The reference crashes when overlap < short side < tile and never ends when the short side <= overlap.
@pytest.mark.parametrize("size", [(12, 40), (6, 40), (40, 3), (1, 33)])
def test_denoiser_takes_any_shape_in_tiles(pack: Any, sd: Any, size: tuple[int, int]) -> None:
    conditioning = pack.nodes.prompt.encode_prompts(sd.clip, [""]).conditioning
    latent = {"samples": torch.randn(1, 4, *size, generator=torch.Generator().manual_seed(0))}
    noise = pack.nodes.noise.AdaptiveNoise(0, torch.zeros(1, 4, *size), 0.5)
    restored = pack.nodes.denoise.one_step(
        sd.model, conditioning, latent, noise, pack.nodes.native.tiled_model.Tiling(16, 8)
    )["samples"]
    assert restored.shape == latent["samples"].shape
    assert torch.isfinite(restored).all()


def test_a_batch_equals_its_images(node: Any, pack: Any, sd: Any) -> None:
    """One prompt each; neither the noise nor the result of an image depends on the others."""
    frames = _image(48, 56, batch=3)
    prompts = ["a photo", "", "a photo"]

    def run(images: Tensor, texts: list[str]) -> Tensor:
        conditioning = node.QUSREncodePrompt.execute([sd.clip], texts).args[0]
        uncertainty = node.QUSRUncertainty.execute(images, sd.uem).args[0]
        latent = node.QUSREncode.execute(images, sd.vae, 0, "exact").args[0]
        noise = node.QUSRAdaptiveNoise.execute(sd.vae, uncertainty, 5, 1.0, "auto").args[0]
        restored = node.QUSROneStepDenoise.execute(sd.model, conditioning, latent, noise, 1.0, 0, 0).args[0]
        return node.QUSRDecode.execute(restored, sd.vae, 0, "exact").args[0]

    together = run(frames, prompts)
    for index in range(3):
        alone = run(frames[index : index + 1], prompts[index : index + 1])
        assert (together[index] - alone[0]).abs().max() < 1e-5
    shared = run(frames, ["a photo"])
    assert (shared[0] - together[0]).abs().max() < 1e-5
    assert (shared[1] - together[1]).abs().max() > 1e-4  # another prompt, another picture


class ShortOfMemory:
    """Lets a layer run out of memory on inputs above a number of pixels, as a small GPU would."""

    def __init__(self, layer: Any, limit: int) -> None:
        self.layer, self.limit, self.seen = layer, limit, 0

    def __call__(self, x: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
        if x.shape[-1] * x.shape[-2] > self.limit:
            raise torch.OutOfMemoryError("out of memory (simulated)")
        self.seen = max(self.seen, x.shape[-1] * x.shape[-2])
        return self.layer(x, *arguments, **keywords)


def test_vae_turns_to_exact_tiles_when_memory_is_short(
    vae_module: Any, sd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = _image(272, 288)
    latent = vae_module.encode(sd.vae, image)
    decoded = vae_module.decode(sd.vae, latent)
    short = ShortOfMemory(sd.vae.first_stage_model.decoder.conv_out.forward, 150 * 150)
    monkeypatch.setattr(sd.vae.first_stage_model.decoder.conv_out, "forward", short)
    assert (vae_module.decode(sd.vae, latent) - decoded).abs().max() < 1e-4
    assert 0 < short.seen <= 150 * 150
    short.limit = 50 * 50
    with pytest.raises(RuntimeError, match="out of memory even with tiles of 128 pixels"):
        vae_module.decode(sd.vae, latent)


def test_denoiser_shrinks_its_tile_when_memory_is_short(pack: Any, sd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    conditioning = pack.nodes.prompt.encode_prompts(sd.clip, [""]).conditioning
    latent = {"samples": torch.randn(1, 4, 80, 72, generator=torch.Generator().manual_seed(0))}
    noise = pack.nodes.noise.AdaptiveNoise(0, torch.zeros(1, 4, 80, 72), 0.5)
    model = sd.model.model.diffusion_model
    short = ShortOfMemory(model.forward, 40 * 40)
    monkeypatch.setattr(model, "forward", short)
    restored = pack.nodes.denoise.one_step(sd.model, conditioning, latent, noise)["samples"]
    assert torch.isfinite(restored).all()
    assert short.seen == 40 * 40

    short.limit = 100
    with pytest.raises(RuntimeError, match="out of memory even with tiles of 32 latent pixels"):
        pack.nodes.denoise.one_step(sd.model, conditioning, latent, noise)


def test_all_in_one_takes_the_sd_models(upscale: Any, sd: Any) -> None:
    image = _image(13, 18)
    result = upscale(image, model=[sd.model], clip=[sd.clip], vae=[sd.vae], uem=[sd.uem], prompt="a photo")
    assert result[0].shape == (1, 52, 72, 3)
    assert result[1].map.shape == (1, 3, 52, 72)


@pytest.mark.parametrize("tile", [70, 72, 100, 128])
def test_blended_tiles_of_any_side_are_whole_blocks(vae_module: Any, nano: Any, tile: int) -> None:
    """nano's latents are the pixels themselves, so that tiles must give them exactly."""
    image = _image(140, 203)
    with torch.inference_mode():  # as ComfyUI runs nodes
        whole, tiled = vae_module.encode(nano.vae, image), vae_module.encode(nano.vae, image, tile, "blended")
    torch.testing.assert_close(tiled, whole, atol=1e-5, rtol=0)
