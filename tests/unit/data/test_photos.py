"""Training data: the same sample everywhere, broken photos skipped, sizes as asked."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from qusr_train.captions import measured as quality
from qusr_train.data.captioned import CaptionedPatches
from qusr_train.data.choices import Choices
from qusr_train.data.degraded import Applied
from qusr_train.data.photos import PhotoPatches, load_photos
from qusr_train.data.prompts import SYNONYMS, PromptShares, paraphrase, training_prompt, true_quality
from qusr_train.data.samples import Sample, collate
from qusr_train.images.find import find_images

WriteImage = Callable[..., Path]


@pytest.fixture
def photos(texture: Tensor) -> list[Tensor]:
    photo = (texture[0] * 255).byte()
    return [photo, photo[:, :64, :80].flip(0)]


def _samples(photos: list[Tensor], patch: int, length: int, seed: int) -> CaptionedPatches:
    return CaptionedPatches(PhotoPatches(photos, patch, length, seed), "measured", PromptShares())


def _same(a: Sample, b: Sample) -> bool:
    return torch.equal(a.x_lq, b.x_lq) and torch.equal(a.x_gt, b.x_gt) and a.prompt == b.prompt


def test_sample_is_the_same_in_every_instance_and_order(photos: list[Tensor]) -> None:
    one, other = _samples(photos, 64, 9, seed=3), _samples(photos, 64, 20, seed=3)
    torch.manual_seed(0)
    forward = [one[i] for i in range(9)]
    torch.manual_seed(1)
    assert all(_same(other[i], forward[i]) for i in reversed(range(9)))


def test_samples_differ_by_index_and_by_seed(photos: list[Tensor]) -> None:
    samples = _samples(photos, 64, 5, seed=3)
    assert not torch.equal(samples[0].x_gt, samples[1].x_gt)
    assert not torch.equal(samples[0].x_gt, _samples(photos, 64, 5, seed=4)[0].x_gt)


def test_samples_have_the_patchs_size_and_range(photos: list[Tensor]) -> None:
    for index in range(8):
        sample = _samples(photos, 64, 8, seed=0)[index]
        for image in (sample.x_lq, sample.x_gt):
            assert image.shape == (3, 64, 64)
            assert image.min() >= -1
            assert image.max() <= 1
        assert (sample.x_lq - sample.x_gt).abs().mean() < 0.25  # the same crop, turned the same way


def test_photo_of_exactly_the_patchs_size_is_only_turned(photos: list[Tensor]) -> None:
    photo = photos[1][:, :64, :64]
    crop = photo.float() / 255 * 2 - 1
    turned = [torch.rot90(crop, k, (1, 2)) for k in range(4)]
    turned += [image.flip(2) for image in turned]
    samples, used = _samples([photo], 64, 40, seed=0), set()
    for index in range(40):  # the camera of `degrade` may soften and sharpen the target: nearest, not equal
        errors = torch.stack([(samples[index].x_gt - image).abs().mean() for image in turned])
        nearest, second = errors.sort().values[:2].tolist()
        assert nearest < 0.9 * second
        used.add(int(errors.argmin()))
    assert used == set(range(8))


def test_true_prompts_name_the_degradation(photos: list[Tensor]) -> None:
    lr = torch.rand(1, 3, 16, 16)
    measured = quality.measure_quality(lr)[0]
    bad = quality.describe(true_quality(measured, Applied(blur=1.2, noise=12.0, quality=45)))
    assert "very poor clarity, very blurry" in bad
    assert "severe noise and heavy compression artifacts" in bad
    good = quality.describe(true_quality(measured, Applied(blur=0.1, noise=0.0, quality=100)))
    assert "excellent clarity, very sharp" in good
    assert "no visible noise and no compression artifacts" in good


def test_textured_crops_are_preferred(photos: list[Tensor]) -> None:
    flat = torch.full((3, 64, 64), 90, dtype=torch.uint8)
    samples = _samples([flat, photos[0]], 64, 40, seed=0)
    share_flat = sum(samples[i].x_gt.std() < 1e-6 for i in range(40)) / 40
    assert share_flat < 0.25  # 0.4 without the four tries


def _prompts(shares: PromptShares, count: int = 200) -> list[str]:
    """Of a picture that measures as sharp and clean, but was very blurry and noisy."""
    measured = quality.measure_quality(torch.rand(1, 3, 16, 16))[0]
    measured = dataclasses.replace(measured, blur_x=0.0, blur_y=0.0, noise=0.0, chroma_noise=0.0)
    applied = Applied(blur=1.2, noise=12.0, quality=100)
    return [training_prompt(measured, applied, torch.Generator().manual_seed(i), shares) for i in range(count)]


def _says_true(prompt: str) -> bool:
    return any(word in prompt for word in ("very blurry", *SYNONYMS["very poor clarity, very blurry"]))


def test_shares_of_prompts_are_kept() -> None:
    assert set(_prompts(PromptShares(empty=1.0), 5)) == {""}
    full = _prompts(PromptShares(empty=0.0, few_words=0.0, part=0.0, true_full=0.4))
    assert all("lighting is" in prompt for prompt in full)
    assert 0.3 < sum(map(_says_true, full)) / len(full) < 0.5
    few = _prompts(PromptShares(empty=0.0, few_words=1.0, part=0.0, true_short=1.0))
    assert all(_says_true(prompt) and "lighting" not in prompt for prompt in few)
    assert any(prompt == "very blurry" for prompt in few)
    assert any(prompt.startswith("a photo with ") for prompt in few)
    parts = _prompts(PromptShares(empty=0.0, few_words=0.0, part=1.0))
    counts = {prompt.count(".") for prompt in parts}
    assert counts == {1, 2, 3, 4}


def test_default_prompts_are_mostly_captions_and_sometimes_empty() -> None:
    prompts = _prompts(PromptShares(), 400)
    assert 0.07 < sum(not prompt for prompt in prompts) / 400 < 0.18
    assert sum("The low-resolution image has" in prompt and "lighting" in prompt for prompt in prompts) / 400 > 0.5


@pytest.mark.parametrize("index", [-1, 4])
def test_index_outside_is_an_error(photos: list[Tensor], index: int) -> None:
    samples = _samples(photos, 64, 4, seed=0)
    assert len(samples) == 4
    with pytest.raises(IndexError):
        samples[index]


def test_collate_stacks(photos: list[Tensor]) -> None:
    samples = _samples(photos, 64, 2, seed=0)
    x_lq, x_gt, prompts, moments, _ = collate([samples[0], samples[1]])
    assert moments is None
    assert x_lq.shape == x_gt.shape == (2, 3, 64, 64)
    assert torch.equal(x_gt[1], samples[1].x_gt)
    assert prompts == [samples[0].prompt, samples[1].prompt]


def test_paraphrase_swaps_phrases_only() -> None:
    caption = "The low-resolution image has poor clarity, blurry. There is slight noise and an owl."
    words = ["poor clarity, blurry", *SYNONYMS["poor clarity, blurry"]]
    noises = ["slight noise", *SYNONYMS["slight noise"]]
    allowed = {f"The low-resolution image has {w}. There is {n} and an owl." for w in words for n in noises}
    choices = Choices(torch.Generator().manual_seed(0))
    assert {paraphrase(caption, choices) for _ in range(200)} == allowed


def test_synonyms_replace_words_the_captioner_uses() -> None:
    used = {*quality.CLARITY_WORDS, *quality.NOISE_WORDS, *quality.BLOCKING_WORDS}
    assert set(SYNONYMS) <= used


def test_broken_photo_is_skipped_with_a_warning(
    tmp_path: Path, write_image: WriteImage, caplog: pytest.LogCaptureFixture
) -> None:
    write_image(tmp_path / "good.png", (80, 70))
    (tmp_path / "bad.jpg").write_bytes(b"not a picture")
    truncated = write_image(tmp_path / "cut.png", (80, 70))
    truncated.write_bytes(truncated.read_bytes()[:2000])
    with caplog.at_level(logging.WARNING, logger="qusr_train.data"):
        photos = load_photos(tmp_path, (1.0,), 64)
    assert [photo.shape for photo in photos] == [(3, 70, 80)]
    assert "bad.jpg: skipped" in caplog.text
    assert "cut.png: skipped" in caplog.text
    assert "2 broken images skipped" in caplog.text


def test_photos_are_kept_at_every_factor_that_is_large_enough(tmp_path: Path, write_image: WriteImage) -> None:
    write_image(tmp_path / "grey.png", (200, 130), mode="L")
    shapes = [tuple(photo.shape) for photo in load_photos(tmp_path, (1.0, 0.5, 0.4), 64)]
    assert shapes == [(3, 130, 200), (3, 65, 100)]


def test_only_small_photos_is_an_error(tmp_path: Path, write_image: WriteImage) -> None:
    write_image(tmp_path / "small.png", (63, 200))
    with pytest.raises(ValueError, match="no photo is at least 64 pixels on both sides"):
        load_photos(tmp_path, (1.0,), 64)


def test_images_are_found_below_in_order(tmp_path: Path, write_image: WriteImage) -> None:
    for name in ("b.PNG", "a/z.jpg", "c.webp"):
        write_image(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no")
    (tmp_path / "folder.png").mkdir()
    assert [p.relative_to(tmp_path).as_posix() for p in find_images(tmp_path)] == ["a/z.jpg", "b.PNG", "c.webp"]


def test_folder_without_images_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nothing: no images found \(looked for \.png"):
        find_images(tmp_path / "nothing")
