"""The same photo through separate nodes, through stock samplers, through one node, and without ComfyUI."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor


def run_separate(node: Any, nano: Any, parts: Any, **options: Any) -> Tensor:
    settings = {"strength": 1.0, "tile": 0, "overlap": 0, **options}
    latent = node.QUSROneStepDenoise.execute(nano.model, parts.conditioning, parts.latent, parts.noise, **settings)
    decoded = nano.vae.decode(latent.args[0]["samples"])
    return node.QUSRColorFix.execute(decoded, parts.bicubic, "wavelet").args[0]


def run_stock(node: Any, nano: Any, core: Any, parts: Any) -> tuple[Tensor, Tensor]:
    guider = core.sampling.BasicGuider.execute(nano.model, parts.conditioning).args[0]
    sampler = core.sampling.KSamplerSelect.execute("euler").args[0]
    sigmas = core.sampling.BasicScheduler.execute(nano.model, "simple", 1, 1.0).args[0]
    outputs = core.sampling.SamplerCustomAdvanced.execute(parts.noise, guider, sampler, sigmas, parts.latent).args
    images = []
    for latent in outputs:
        decoded = nano.vae.decode(latent["samples"])
        images.append(node.QUSRColorFix.execute(decoded, parts.bicubic, "wavelet").args[0])
    return images[0], images[1]


def test_separate_stock_and_all_in_one_give_the_same_pixels(
    node: Any, nano: Any, core: Any, separate: Any, upscale: Any, photo: Tensor
) -> None:
    parts = separate(photo, seed=7)
    ours = run_separate(node, nano, parts)
    stock, stock_denoised = run_stock(node, nano, core, parts)
    upscaled = upscale(photo, seed=7)
    assert torch.equal(ours, stock)
    assert torch.equal(ours, stock_denoised)
    assert torch.equal(ours, upscaled[0])
    assert torch.equal(parts.bicubic, upscaled[2])
    assert upscaled[3] == parts.prompts[0]
    assert torch.equal(upscaled[1].map, parts.uncertainty.map)


def test_the_model_changes_the_image(node: Any, nano: Any, separate: Any, photo: Tensor) -> None:
    parts = separate(photo)
    assert (run_separate(node, nano, parts) - parts.bicubic).abs().mean() > 1 / 255


def test_node_path_and_command_line_path_agree(pack: Any, node: Any, nano: Any, separate: Any, photo: Tensor) -> None:
    parts = separate(photo, seed=3)
    restore = importlib.import_module("qusr_pack.qusr_train.restore")
    other = restore.Restorer()(photo.movedim(-1, 1), seed=3)
    ours = run_separate(node, nano, parts)
    assert other.prompts == parts.prompts
    assert (ours - other.image.movedim(1, -1)).abs().max() <= 1 / 255


def test_reference_variant_keeps_the_noise_and_paper_variant_does_not(
    pack: Any, nano: Any, separate: Any, photo: Tensor
) -> None:
    """Paper result = reference result - injected noise."""
    parts = separate(photo, seed=5)
    one_step, make = pack.nodes.denoise.one_step, pack.nodes.native.sampling.make_one_step
    bare = nano.model.clone()
    bare.wrappers.clear()
    results = {
        variant: one_step(make(bare.clone(), variant), parts.conditioning, parts.latent, parts.noise)["samples"]
        for variant in ("paper", "reference")
    }
    injected = parts.noise.generate_noise(parts.latent)
    assert injected.abs().max() > 1e-4
    assert torch.allclose(results["paper"], results["reference"] - injected, atol=1e-5)


def test_grain_stays_in_the_result_where_the_noise_mask_allows_it(
    pack: Any, nano: Any, separate: Any, photo: Tensor
) -> None:
    parts = separate(photo, seed=5)
    one_step, make = pack.nodes.denoise.one_step, pack.nodes.native.sampling.make_one_step
    kept_grain = importlib.import_module("qusr_pack.qusr_train.model.noise").kept_grain
    bare = nano.model.clone()
    bare.wrappers.clear()
    mask = torch.zeros(1, 1, *parts.latent["samples"].shape[-2:])
    mask[..., : mask.shape[-1] // 2] = 1.0
    latent = {**parts.latent, "noise_mask": mask}
    for variant in ("paper", "reference"):
        clean, grainy = (
            one_step(make(bare.clone(), variant, grain=grain), parts.conditioning, latent, parts.noise)["samples"]
            for grain in (0.0, 0.8)
        )
        expected = kept_grain(parts.noise.generate_noise(latent) * mask, 0.8)
        assert expected.abs().max() > 1e-3
        assert torch.allclose(grainy - clean, expected, atol=1e-5)


def test_tiles_agree_with_the_whole(node: Any, nano: Any, separate: Any, photo: Tensor) -> None:
    parts = separate(photo)
    passes: list[int] = []
    hook = nano.model.model.diffusion_model.register_forward_hook(lambda *_: passes.append(1))
    whole = run_separate(node, nano, parts)
    once = len(passes)
    tiled = run_separate(node, nano, parts, tile=32, overlap=24)
    hook.remove()
    assert (whole - tiled).abs().max() < 8 / 255
    assert len(passes) - once > once, "the tiled path did not run"


def test_strength_zero_adds_nothing_and_half_adds_half(nano: Any, pack: Any, separate: Any, photo: Tensor) -> None:
    parts = separate(photo)
    one_step = pack.nodes.denoise.one_step
    start = parts.latent["samples"]
    full, half, none = (
        one_step(nano.model, parts.conditioning, parts.latent, parts.noise, strength=s)["samples"]
        for s in (1.0, 0.5, 0.0)
    )
    assert torch.equal(none, start)
    assert torch.allclose(half - start, (full - start) / 2, atol=1e-5)


def test_an_image_gives_the_same_result_alone_and_in_a_batch(upscale: Any, photo: Tensor) -> None:
    other = photo.flip(2)
    together = upscale(torch.cat([photo, other]))
    alone = upscale(other)
    assert torch.allclose(together[0][1:], alone[0], atol=1e-5)
    assert together[3].splitlines()[1] == alone[3]


def test_separate_nodes_take_a_batch_with_one_prompt_each(node: Any, nano: Any, separate: Any, photo: Tensor) -> None:
    batch = torch.cat([photo, photo.flip(2) * 0.5])
    parts = separate(batch, seed=2)
    assert len(parts.prompts) == 2
    assert parts.conditioning[0][0].shape[0] == 2
    both = run_separate(node, nano, parts)
    second = run_separate(node, nano, separate(batch[1:], seed=2))
    assert torch.allclose(both[1:], second, atol=1e-4)


def test_prompt_and_seed_change_the_result(upscale: Any, photo: Tensor) -> None:
    def run(seed: int, prompt: str) -> Tensor:
        return upscale(photo, seed=seed, prompt=prompt, color_fix="none")[0]

    base = run(1, "very poor clarity, very blurry, strong noise")
    assert torch.equal(base, run(1, "very poor clarity, very blurry, strong noise"))
    assert not torch.equal(base, run(2, "very poor clarity, very blurry, strong noise"))
    assert not torch.equal(base, run(1, "excellent clarity, very sharp, no visible noise"))


def test_lora_strength_zero_is_the_plain_base(node: Any, nano: Any, pack: Any, separate: Any, photo: Tensor) -> None:
    parts = separate(photo)
    plain = node.QUSRNanoLoader.execute(lora_strength=0.0).args[0]
    tuned = run_separate(node, nano, parts)
    base = run_separate(node, type(nano)(model=plain, vae=nano.vae), parts)
    checkpoint = pack.qusr_train.checkpoints.nano_file.load_nano()
    assert torch.equal(tuned, base) == (not checkpoint.lora)


def test_noise_mask_restores_only_inside_in_both_samplers(
    node: Any, nano: Any, core: Any, separate: Any, photo: Tensor
) -> None:
    parts = separate(photo)
    mask = torch.zeros(1, 192, 160)
    mask[:, :96] = 1
    start = parts.latent["samples"]
    parts.latent = {**parts.latent, "noise_mask": mask}
    ours = node.QUSROneStepDenoise.execute(nano.model, parts.conditioning, parts.latent, parts.noise, 1.0, 0, 0)
    restored = ours.args[0]["samples"]
    assert torch.allclose(restored[:, :, 30:], start[:, :, 30:], atol=1e-5)
    assert (restored[:, :, :20] - start[:, :, :20]).abs().mean() > 1e-3
    stock, _ = run_stock(node, nano, core, parts)
    decoded = nano.vae.decode(restored)
    assert torch.equal(stock, node.QUSRColorFix.execute(decoded, parts.bicubic, "wavelet").args[0])
