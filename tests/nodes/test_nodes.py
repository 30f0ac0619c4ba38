"""Each node on its own: outputs, kinds of input, refusals."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor


def test_every_node_documents_every_input(pack: Any) -> None:
    for cls in pack.nodes.NODES:
        schema = cls.GET_SCHEMA()  # finalised and validated, as ComfyUI reads it
        assert schema.node_id.startswith("QUSR")
        assert schema.description
        assert schema.category == "image/upscaling/QUSR"
        for entry in schema.inputs:
            assert entry.tooltip, f"{schema.node_id}.{entry.id} has no tooltip"


def test_every_node_has_a_help_page(pack: Any) -> None:
    from pathlib import Path

    docs = Path(pack.__file__).parent / "js" / "docs"
    silent = []
    for cls in pack.nodes.NODES:
        page = (docs / f"{cls.__name__}.md").read_text(encoding="utf-8")
        for entry in cls.define_schema().inputs:
            name = re.escape(entry.id)  # heads a row of a table, or an item of a list
            if not re.search(rf"^\|[^|]*\b{name}\b[^|]*\||^- [^:]*`{name}`", page, re.MULTILINE):
                silent.append(f"{cls.__name__}.{entry.id}")
    assert not silent, "help pages do not explain these inputs"


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 5), (33, 2)])
def test_any_size_comes_back_four_times_as_large(upscale: Any, size: tuple[int, int]) -> None:
    image = torch.rand(1, *size, 3, generator=torch.Generator().manual_seed(0))
    result = upscale(image)[0]
    assert result.shape == (1, 4 * size[0], 4 * size[1], 3)
    assert torch.isfinite(result).all()
    assert 0 <= result.min() <= result.max() <= 1


def test_alpha_is_kept(upscale: Any, photo: Tensor) -> None:
    alpha = torch.zeros(*photo.shape[:3], 1)
    alpha[:, :20] = 1
    result = upscale(torch.cat([photo, alpha], dim=-1))[0]
    assert result.shape[-1] == 4
    assert result[0, 40, 40, 3] == 1
    assert result[0, -10, 40, 3] == 0
    assert torch.allclose(result[..., :3], upscale(photo)[0], atol=1e-6)


def test_grey_equals_the_same_grey_in_three_channels(upscale: Any, photo: Tensor) -> None:
    grey = photo[..., :1]
    assert torch.equal(upscale(grey)[0], upscale(grey.expand(-1, -1, -1, 3))[0])


def test_huge_image_runs_in_tiles(upscale: Any, pack: Any, photo: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The automatic tiling, just above the limit."""
    big = photo.repeat(1, 10, 10, 1)[:, :420, :400]
    started = []
    in_tiles = pack.nodes.native.tiled_model.exact_tiles

    def watched(*arguments: Any) -> Tensor:
        started.append(arguments[2])
        return in_tiles(*arguments)

    monkeypatch.setattr(pack.nodes.native.tiled_model, "exact_tiles", watched)
    tiled = upscale(big)[0]
    assert started == [384], "the automatic tiling did not start"
    monkeypatch.setattr(pack.nodes.upscale, "NANO_TILES", pack.nodes.native.tiled_model.Tiling(420))
    whole = upscale(big)[0]
    assert started == [384], "the whole picture went through in tiles too"
    assert tiled.shape == (1, 1680, 1600, 3)
    assert (whole - tiled).abs().max() < 1e-4


def test_one_bar_goes_up_over_all_steps(upscale: Any, photo: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    import comfy.utils

    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, *_, **__: seen.append((value, total)))
    upscale(photo.repeat(2, 1, 1, 1))
    # Newer ComfyUI leaves out those that come too fast.
    assert [seen[0], seen[-1]] == [(1, 10), (10, 10)]
    assert seen == sorted(seen)
    assert set(seen) <= {(step, 10) for step in range(1, 11)}


def test_presets_differ_and_custom_follows_the_sliders(upscale: Any, photo: Tensor) -> None:
    balanced, faithful = (upscale(photo, preset=p)[0] for p in ("balanced", "faithful"))
    assert torch.equal(faithful, upscale(photo, preset="dial", detail=0.0)[0])
    assert not torch.equal(balanced, faithful)
    custom = upscale(photo, preset="custom", strength=1.25, noise_strength=1.0)[0]
    assert torch.equal(upscale(photo, preset="crisp")[0], custom)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.full((1, 8, 8, 3), float("nan")), "NaN"),
        (torch.full((1, 8, 8, 3), float("inf")), "infinite"),
        (torch.zeros(1, 8, 8, 2), "channels"),
        (torch.zeros(0, 8, 8, 3), "empty"),
        (torch.zeros(1, 2, 8, 8, 3), "video"),
        (torch.zeros(8, 8, 3), "expected"),
    ],
)
def test_bad_images_are_refused_by_name(upscale: Any, image: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=f"image: .*{message}"):
        upscale(image)


def test_partly_connected_models_are_refused(upscale: Any, nano: Any, photo: Tensor) -> None:
    with pytest.raises(ValueError, match="clip, vae, uem: not connected"):
        upscale(photo, model=nano.model)


def test_model_that_is_not_one_step_is_refused(node: Any, nano: Any, separate: Any, photo: Tensor) -> None:
    parts = separate(photo)
    plain = nano.model.clone()
    plain.object_patches.clear()
    with pytest.raises(ValueError, match=r"model: is not a one-step QUSR model"):
        node.QUSROneStepDenoise.execute(plain, parts.conditioning, parts.latent, parts.noise, 1.0, 0, 0)


def test_latent_of_another_vae_is_refused(node: Any, nano: Any, separate: Any, photo: Tensor) -> None:
    parts = separate(photo)
    with pytest.raises(ValueError, match=r"latent: expected \(batch, 48"):
        node.QUSROneStepDenoise.execute(
            nano.model, parts.conditioning, {"samples": torch.zeros(1, 4, 8, 8)}, parts.noise, 1.0, 0, 0
        )


def test_noise_of_another_size_is_refused(node: Any, nano: Any, separate: Any, photo: Tensor) -> None:
    parts, smaller = separate(photo), separate(photo[:, :20])
    with pytest.raises(ValueError, match=r"uncertainty: its latent map is \(48, 20, 40\)"):
        node.QUSROneStepDenoise.execute(nano.model, parts.conditioning, parts.latent, smaller.noise, 1.0, 0, 0)


def test_conditioning_of_another_batch_is_refused(node: Any, nano: Any, separate: Any, photo: Tensor) -> None:
    parts = separate(photo)
    two = node.QUSREncodePrompt.execute([nano.clip], ["a", "b"]).args[0]
    with pytest.raises(ValueError, match="conditioning: holds 2 prompts for 1 latents"):
        node.QUSROneStepDenoise.execute(nano.model, two, parts.latent, parts.noise, 1.0, 0, 0)


def test_conditioning_of_another_clip_is_refused(node: Any, nano: Any, separate: Any, photo: Tensor) -> None:
    parts = separate(photo)
    with pytest.raises(ValueError, match="context: qusr-nano expects conditioning of width 64"):
        node.QUSROneStepDenoise.execute(
            nano.model, [[torch.zeros(1, 77, 768), {}]], parts.latent, parts.noise, 1.0, 0, 0
        )


def test_uncertainty_view_of_another_size_is_refused(node: Any, separate: Any, photo: Tensor) -> None:
    with pytest.raises(ValueError, match="image: is 40 x 48 but the uncertainty map is 160 x 192"):
        node.QUSRUncertaintyView.execute(
            separate(photo).uncertainty, "turbo", 0.5, "auto", 0.0, 1.0, False, image=photo
        )


def test_uncertainty_view_ranges_and_legend(node: Any, separate: Any, photo: Tensor) -> None:
    parts = separate(photo)
    heat, overlay = node.QUSRUncertaintyView.execute(
        parts.uncertainty, "viridis", 0.0, "percentile", 0.0, 1.0, False, image=parts.bicubic
    ).args
    assert heat.shape == overlay.shape == parts.bicubic.shape
    assert torch.allclose(overlay, parts.bicubic, atol=1e-6), "opacity 0 shows the photo"
    with_legend = node.QUSRUncertaintyView.execute(parts.uncertainty, "magma", 0.5, "auto", 0.0, 1.0, True).args[0]
    assert with_legend.shape[1] == heat.shape[1] + 28
    with pytest.raises(ValueError, match="range_max must be above range_min"):
        node.QUSRUncertaintyView.execute(parts.uncertainty, "grey", 0.5, "fixed", 1.0, 1.0, False)


def test_model_free_uncertainty_needs_no_model(node: Any, photo: Tensor) -> None:
    uncertainty, mask = node.QUSRUncertainty.execute(photo).args
    assert uncertainty.map.shape == (1, 3, *photo.shape[1:3])
    assert mask.shape == photo.shape[:3]
    assert mask.max() == pytest.approx(1.0)


def test_long_prompt_is_cut_to_75_tokens_and_the_cut_is_shown(node: Any, nano: Any) -> None:
    long = "sharp " * 80 + "unread words"
    conditioning, used, cut, cut_text = node.QUSREncodePrompt.execute([nano.clip], [long]).args
    assert (used, cut) == (75, 8)
    assert cut_text.endswith("unread words")
    assert conditioning[0][0].shape == (1, 77, 64)
    shorter = node.QUSREncodePrompt.execute([nano.clip], ["sharp " * 75]).args[0]
    assert torch.equal(conditioning[0][0], shorter[0][0])


def test_empty_prompt_and_brackets(node: Any, nano: Any) -> None:
    empty = node.QUSREncodePrompt.execute([nano.clip], [""]).args
    assert empty[1] == 0
    assert torch.isfinite(empty[0][0][0]).all()
    weighted = node.QUSREncodePrompt.execute([nano.clip], ["(noise:1.5)"]).args[0][0][0]
    plain = node.QUSREncodePrompt.execute([nano.clip], ["noise"]).args[0][0][0]
    assert not torch.equal(weighted, plain), "brackets are read as characters, not dropped"


def test_color_fix_resizes_its_reference_and_restores_its_mean(node: Any, photo: Tensor) -> None:
    image = (photo * 0.5 + 0.3).clamp(0, 1)
    for method in ("wavelet", "adain"):
        fixed = node.QUSRColorFix.execute(image, photo[:, ::2, ::2], method).args[0]
        assert fixed.shape == photo.shape
        assert abs(fixed.mean() - photo.mean()) < 0.02
    assert torch.equal(node.QUSRColorFix.execute(image, photo, "none").args[0], image)
    with pytest.raises(ValueError, match="reference: has 2 images but image has 3"):
        node.QUSRColorFix.execute(image.repeat(3, 1, 1, 1), photo.repeat(2, 1, 1, 1), "adain")


def test_compare_puts_before_left_and_after_right(node: Any, photo: Tensor) -> None:
    large = node.QUSREnlarge.execute(photo, 4.0).args[0]
    pair = node.QUSRCompare.execute(photo, 1 - large).args[0]
    width = large.shape[2]
    assert torch.allclose(pair[:, :, :width], large, atol=1e-5)
    assert torch.allclose(pair[:, :, -width:], 1 - large, atol=1e-5)


def test_adaptive_noise_follows_the_map_and_its_parameters(node: Any, nano: Any, separate: Any, photo: Tensor) -> None:
    parts = separate(photo)

    def noise(**options: Any) -> Tensor:
        settings = {"strength": 1.0, "variant": "auto", **options}
        made = node.QUSRAdaptiveNoise.execute(nano.vae, parts.uncertainty, 4, **settings).args[0]
        return made.generate_noise(parts.latent)

    assert torch.allclose(noise(strength=0.5), noise() * 0.5, atol=1e-6)
    assert noise(p=0.0).abs().max() == 0
    assert noise(m=1.0, p=1.0, variant="paper").std() == pytest.approx(1.0, abs=0.02)
    reference = noise(variant="reference", p=1.0, delta=1e-8)
    expected = parts.uncertainty.map.abs().mean().item()
    assert (reference**2).mean().item() == pytest.approx(expected, rel=0.2), "variance of the noise is |U|"


def test_prompts_from_a_captioner_go_one_to_each_image(node: Any, upscale: Any, photo: Tensor) -> None:
    batch = torch.cat([photo, photo * 0.5])
    prompts = node.QUSRQualityPrompt.execute(batch).args[0]
    assert torch.equal(upscale(batch, prompt=prompts)[0], upscale(batch)[0])
    with pytest.raises(ValueError, match="prompt: got 3 prompts for 2 images"):
        upscale(batch, prompt=["a", "b", "c"])


def test_estimator_model_without_a_model_is_refused(node: Any, photo: Tensor) -> None:
    with pytest.raises(ValueError, match="uem: not connected"):
        node.QUSRUncertainty.execute(photo, None, "model")


def test_fit_prioritise_keeps_the_qualities_of_a_long_prompt(node: Any, nano: Any) -> None:
    text = (
        "A cat on a wall beside a row of old houses, with trees behind it and a red car in the street, " * 5
        + "very blurry."
    )
    plain = node.QUSREncodePrompt.execute([nano.clip], [text]).args
    fitted = node.QUSREncodePrompt.execute([nano.clip], [text], None, ["prioritise"]).args
    assert "blurry" in plain[3]
    assert "blurry" not in fitted[3]
    assert fitted[1] <= 75
    assert not torch.equal(plain[0][0][0], fitted[0][0][0])
