"""The loss that puts the captioner's words in order."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from qusr_train.captions import measured as quality
from qusr_train.errors import InputError
from qusr_train.training.config import TrainConfig
from qusr_train.training.loop import train
from qusr_train.training.steering import Steering, detail, draw_steering, steering_loss


def _drawn(seed: int) -> Steering:
    return draw_steering(torch.Generator().manual_seed(seed))


def _word(text: str, words: tuple[str, ...]) -> int:
    """Number of the word that a prompt names; the longest, since `blurry` is in `very blurry`."""
    found = {n: len(part) for n, word in enumerate(words) for part in (word, word.split(", ")[-1]) if part in text}
    return max(found, key=lambda n: found[n])


@pytest.mark.parametrize("seed", range(60))
def test_the_two_prompts_are_neighbours_in_one_word(seed: int) -> None:
    steering = _drawn(seed)
    clarity = steering.sigma == 1.6
    words = quality.CLARITY_WORDS if clarity else quality.NOISE_WORDS
    more, less = (_word(text, words) for text in (steering.more, steering.less))
    assert abs(more - less) == 1
    # Captioner's order: from very sharp to very blurry, from no noise to severe noise.
    blurrier = max(more, less) if words[0].endswith("very sharp") else min(more, less)
    assert more == (blurrier if clarity else min(more, less))
    for word in (more, less):
        text = (steering.more, steering.less)[word == less]
        rest = text.replace(words[word], "").replace(words[word].split(", ")[-1], "")
        other = steering.less if text == steering.more else steering.more
        number = less if word == more else more
        assert rest == other.replace(words[number], "").replace(words[number].split(", ")[-1], "")


def test_both_scales_whole_captions_and_single_words_are_drawn() -> None:
    drawn = [_drawn(seed) for seed in range(100)]
    assert {s.sigma for s in drawn} == {0.7, 1.6}
    whole = sum("The lighting is" in s.more for s in drawn)
    assert 40 < whole < 80
    assert len({s.more for s in drawn}) > 30


def test_the_loss_is_zero_in_order_and_grows_with_the_wrong_order(texture: Tensor) -> None:
    x = texture * 2 - 1
    soft, sharp = x * 0.8, x * 1.0  # detail is linear in contrast
    steering = Steering("very blurry", "blurry", 1.6, 0.04)
    assert steering_loss(sharp, soft, steering).item() == 0
    assert steering_loss(x, x, steering).item() == pytest.approx(0.04, abs=1e-6)
    assert steering_loss(soft, sharp, steering).item() == pytest.approx(0.04 - torch.tensor(0.8).log().item(), abs=2e-3)


def test_detail_is_what_a_gaussian_takes_away() -> None:
    flat = torch.full((1, 3, 32, 32), 0.3)
    assert detail(flat, 1.6).item() == pytest.approx(0, abs=1e-6)
    checks = flat + 0.1 * ((torch.arange(32)[:, None] + torch.arange(32)) % 2 * 2 - 1)
    assert detail(checks, 1.6).item() == pytest.approx(0.1, rel=0.01)
    ramp = flat + torch.linspace(0, 1, 32)
    assert detail(ramp, 1.6).item() == pytest.approx(0, abs=1e-5)


def test_training_with_it_changes_only_steps_that_compare(tmp_path: Path, texture: Tensor) -> None:
    from PIL import Image

    (tmp_path / "photos").mkdir()
    Image.fromarray((texture[0] * 255).byte().permute(1, 2, 0).numpy()).save(tmp_path / "photos" / "photo.png")
    config = TrainConfig(
        photos=str(tmp_path / "photos"), out=str(tmp_path / "run"), patch=64, batch_size=1, steps=4, workers=0,
        precision="no", photo_factors=(1.0,), steering_weight=0.3, log_every=1,
    )  # fmt: skip
    train(config)
    lines = [json.loads(line) for line in (tmp_path / "run" / "base.metrics.jsonl").read_text().splitlines()]
    assert ["steering_loss" in line for line in lines] == [True, False, True, False]
    stage = dataclasses.replace(
        config, stage="qusr", init=str(tmp_path / "run" / "base.safetensors"), out=str(tmp_path / "qusr"), rank=2
    )
    train(stage)
    lines = [json.loads(line) for line in (tmp_path / "qusr" / "qusr.metrics.jsonl").read_text().splitlines()]
    assert ["steering_loss" in line for line in lines] == [True, False, True, False]


def test_is_not_for_stable_diffusion() -> None:
    with pytest.raises(InputError, match="only for nano") as caught:
        TrainConfig(photos="p", out="o", stage="sd21", init="i", steering_weight=0.1)
    assert caught.value.field == "steering_weight"
