"""Second-order degradations, pairs from files, and pre-generated data sets."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from qusr_train.captions import measured as quality
from qusr_train.cli.main import main
from qusr_train.data.degradation import degradation
from qusr_train.data.pairs import PairPatches
from qusr_train.data.photo_files import FilePatches, epoch_order
from qusr_train.data.pregenerate import Pregeneration, pregenerate
from qusr_train.data.pregenerated import RECORDS, read_records
from qusr_train.data.prompts import PromptShares
from qusr_train.data.real_esrgan import AUTHORS, KINDS, blur_kernel, degrade_second_order, read_ranges, sharpen_target
from qusr_train.data.samples import collate
from qusr_train.errors import InputError


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def photos(tmp_path: Path, texture: Tensor) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(3):
        array = (texture[0].roll(7 * index, 2) * 255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(array).save(folder / f"{index}.png")
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_kernels_sum_to_one_and_are_symmetric(kind: str) -> None:
    kernel = blur_kernel(kind, 13, 2.0, 0.8, 0.7, beta=1.4)
    assert kernel.shape == (13, 13)
    assert kernel.sum().item() == pytest.approx(1.0)
    torch.testing.assert_close(kernel, kernel.flip(0, 1))
    turned_equal = torch.allclose(kernel, kernel.T, atol=1e-6) and torch.allclose(kernel, kernel.flip(0), atol=1e-6)
    assert turned_equal == (not kind.endswith("aniso"))


def test_kernels_by_hand() -> None:
    """Ratio of the neighbour at distance 1 to the centre: d = 1 / sigma^2 = 1/4."""
    expected = {
        "iso": math.exp(-0.125),
        "generalized_iso": math.exp(-0.5 * 0.25**2),
        "plateau_iso": 1 / (1 + 0.25**2),
    }
    for kind, ratio in expected.items():
        kernel = blur_kernel(kind, 7, 2.0, 2.0, 0.0, beta=2.0)
        assert (kernel[3, 4] / kernel[3, 3]).item() == pytest.approx(ratio, rel=1e-5)
    tall = blur_kernel("aniso", 7, 2.0, 1.0, math.pi / 2)  # turned: sigma_x now runs along y
    assert (tall[4, 3] / tall[3, 3]).item() == pytest.approx(math.exp(-0.125), rel=1e-5)
    assert (tall[3, 4] / tall[3, 3]).item() == pytest.approx(math.exp(-0.5), rel=1e-5)


@pytest.mark.parametrize("seed", range(20))
def test_second_order_is_deterministic_and_on_the_8_bit_grid(texture: Tensor, seed: int) -> None:
    photo = texture[..., :64, :96]
    torch.manual_seed(0)
    one = degrade_second_order(photo, _generator(seed))
    torch.manual_seed(1)
    other = degrade_second_order(photo, _generator(seed))
    assert torch.equal(one.lr, other.lr)
    assert one.lr.shape == (1, 3, 16, 24)
    assert torch.equal(one.hr, photo)
    torch.testing.assert_close(one.lr * 255, (one.lr * 255).round(), atol=1e-4, rtol=0)
    assert not torch.equal(one.lr, degrade_second_order(photo, _generator(seed + 100)).lr)


def test_sharpened_targets_have_more_contrast_and_keep_flat_areas(texture: Tensor) -> None:
    sharp = sharpen_target(texture)
    assert sharp.std() > texture.std()
    flat = torch.full((1, 3, 64, 64), 0.4)
    torch.testing.assert_close(sharpen_target(flat), flat, atol=1e-5, rtol=0)


def test_every_epoch_takes_every_file_once_in_its_own_order() -> None:
    epochs = [[epoch_order(i + 7 * e, 7, seed=3)[0] for i in range(7)] for e in range(3)]
    assert all(sorted(order) == list(range(7)) for order in epochs)
    assert epochs[0] != epochs[1]


def test_broken_and_small_photos_are_counted(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    (photos / "broken.jpg").write_bytes(b"no")
    Image.new("RGB", (20, 20)).save(photos / "small.png")
    patches = FilePatches(photos, 64, 4, 1, degradation("second_order"))
    assert len(patches.paths) == 3
    assert "broken.jpg: skipped" in caplog.text
    assert "1 broken images skipped" in caplog.text
    assert "1 images skipped, a side is below 64 pixels" in caplog.text


def test_photo_that_breaks_later_is_replaced(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    patches = FilePatches(photos, 64, 6, 1, degradation("camera"))
    for path in patches.paths[:2]:
        path.write_bytes(path.read_bytes()[:500])
    assert all(patches[i].hr.shape == (1, 3, 64, 64) for i in range(6))
    assert "took the next one" in caplog.text


def test_pregenerated_set_resumes_and_grows(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    assert pregenerate(Pregeneration(photos, patch=64), out, 3) == 3
    first = {path.name: path.read_bytes() for path in (out / "lr").iterdir()}
    (out / "lr" / "00000001.png").unlink()  # as if it had been stopped
    assert main(["degrade", "--photos", str(photos), "--out", str(out), "--count", "5", "--patch", "64"]) == 0
    assert len(list((out / "hr").iterdir())) == 5
    assert all((out / "lr" / name).read_bytes() == content for name, content in first.items())
    with pytest.raises(ValueError, match="holds pairs of other settings"):
        pregenerate(Pregeneration(photos, patch=64, seed=2), out, 5)


def test_teachers_picture_is_cropped_and_turned_with_its_target(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    pregenerate(Pregeneration(photos, patch=96), out, 3)
    with pytest.raises(InputError, match="expected the teacher's pictures"):
        PairPatches(out, 64, 3, 1, "empty", taught=True)
    (out / "teacher").mkdir()
    for name in ("00000000.png", "00000001.png"):
        picture = 255 - np.array(Image.open(out / "hr" / name))
        Image.fromarray(picture).save(out / "teacher" / name)
    pairs = PairPatches(out, 64, 3, 1, "empty", taught=True)
    taught = [sample.x_teacher for sample in (pairs[i] for i in range(3))]
    assert sum(one is None for one in taught) == 1
    _, x_gt, _, _, x_teacher = collate([pairs[i] for i in range(3)])
    assert x_teacher is not None
    for one, target, stacked in zip(taught, x_gt, x_teacher, strict=True):
        torch.testing.assert_close(stacked, target if one is None else -target)
    assert collate([PairPatches(out, 64, 3, 1, "empty")[0]])[4] is None
    Image.new("RGB", (64, 64)).save(out / "teacher" / "00000000.png")
    with pytest.raises(InputError, match=r"00000000.png: is 64 x 64, the target 96 x 96"):
        [pairs[i] for i in range(3)]


def test_what_was_done_is_noted_and_prompts_say_it(photos: Path, tmp_path: Path) -> None:
    """Camera degradations, with few words that always say what was done; a line cut short is made again."""
    out = tmp_path / "set"
    what = Pregeneration(photos, patch=64, degradation="camera", in_memory=True)
    pregenerate(what, out, 12)
    whole = (out / RECORDS).read_bytes()
    records = read_records(out)
    assert len(records) == 12
    shares = PromptShares(empty=0.0, few_words=1.0, part=0.0, true_short=1.0)
    pairs = PairPatches(out, 64, 12, 1, "measured", shares=shares)
    for index, (stem, record) in enumerate(records.items()):
        lr = pairs.pair(stem)[0]
        measured = quality.measure_quality(lr[None])[0]
        assert record.measured.noise == pytest.approx(measured.noise, abs=1e-4)
        assert record.applied is not None
        word = quality.CLARITY_WORDS[quality.level(record.applied.blur, quality.BLUR_LEVELS)].split(", ")[-1]
        prompt = pairs._prompt(stem, lr, _generator(index))
        assert prompt.endswith(word) or f"{word}," in prompt
    (out / RECORDS).write_bytes(whole[:-20])
    assert pregenerate(what, out, 12) == 1
    assert (out / RECORDS).read_bytes() == whole


def test_damaged_note_is_named(photos: Path, tmp_path: Path) -> None:
    pregenerate(Pregeneration(photos, patch=64), tmp_path / "set", 1)
    (tmp_path / "set" / RECORDS).write_text("{}\n")
    with pytest.raises(ValueError, match=r"degradations\.jsonl: line 1 is damaged"):
        PairPatches(tmp_path / "set", 64, 1, 1, "measured")


def test_real_pairs_are_mixed_in(photos: Path, tmp_path: Path) -> None:
    camera = tmp_path / "cameras" / "one"
    for part, size in (("hr", 96), ("lr2", 48)):
        (camera / part).mkdir(parents=True)
        Image.new("RGB", (size, size), (200, 40, 10)).save(camera / part / "a.png")
    flags = ["--camera_pairs", str(camera.parent), "--camera_share", "0.5", "--patch", "64", "--count", "12"]
    out = tmp_path / "set"
    assert main(["degrade", "--photos", str(photos), "--out", str(out), *flags]) == 0
    means = [np.asarray(Image.open(path)).mean((0, 1)) for path in sorted((out / "lr").iterdir())]
    red = sum(bool(mean[0] - mean[2] > 120) for mean in means)  # the photos are grey
    assert 2 <= red <= 10


def test_pairs_are_cropped_and_turned_together(photos: Path, tmp_path: Path) -> None:
    for part, size in (("hr", 96), ("lr", 24)):
        (tmp_path / part).mkdir()
        for path in photos.iterdir():
            Image.open(path).resize((size, size), Image.Resampling.BOX).save(tmp_path / part / path.name)
    pairs = PairPatches(tmp_path, 64, 12, 1, "measured")
    for index in range(12):
        sample = pairs[index]
        assert sample.x_lq.shape == sample.x_gt.shape == (3, 64, 64)
        assert (sample.x_lq - sample.x_gt).abs().mean() < 0.3
        assert "The lighting is" in sample.prompt
        assert torch.equal(sample.x_gt, pairs[index].x_gt)


def test_captions_come_from_the_file(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    pregenerate(Pregeneration(photos, patch=64), out, 2)
    with pytest.raises(ValueError, match=r"captions\.json: cannot be read"):
        PairPatches(out, 64, 2, 1, "files", fixed=True)
    (out / "captions.json").write_text(json.dumps({"00000000.png": "blurry"}))
    with pytest.raises(ValueError, match=r"1 images have no caption \(00000001\)"):
        PairPatches(out, 64, 2, 1, "files", fixed=True)
    (out / "captions.json").write_text(json.dumps({"00000000.png": "blurry", "00000001": "noisy"}))
    pairs = PairPatches(out, 64, 2, 1, "files", fixed=True)
    assert {pairs[0].prompt, pairs[1].prompt} == {"blurry", "noisy"}


def test_captions_of_the_caption_command_are_read(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    pregenerate(Pregeneration(photos, patch=64), out, 2)
    assert main(["caption", str(out / "lr"), "--out", str(out / "captions.jsonl")]) == 0
    written = [json.loads(line)["text"] for line in (out / "captions.jsonl").read_text().splitlines()]
    pairs = PairPatches(out, 64, 2, 1, "files", fixed=True)
    assert sorted([pairs[0].prompt, pairs[1].prompt]) == sorted(written)
    assert len(written) == 2


def test_pairs_of_wrong_sizes_are_named(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    with pytest.raises(ValueError, match="expected the folders lr and hr in it, but lr is missing"):
        PairPatches(tmp_path, 64, 1, 1, "empty")
    pregenerate(Pregeneration(photos, patch=64), out, 1)
    pregenerate(Pregeneration(photos, patch=80), tmp_path / "large", 1)
    with pytest.raises(ValueError, match="is 80 x 80; cached latents need pairs of exactly 64"):
        PairPatches(tmp_path / "large", 64, 1, 1, "empty", fixed=True)
    Image.fromarray(np.zeros((10, 10, 3), np.uint8)).save(out / "lr" / "00000000.png")
    with pytest.raises(ValueError, match=r"is 10 x 10, its target 64 x 64; expected 4 times the size"):
        PairPatches(out, 64, 1, 1, "empty")


def test_the_authors_ranges_are_those_of_their_file() -> None:
    """src/datasets/params.yml of the published code, read by hand."""
    first, second = AUTHORS.first, AUTHORS.second
    assert (first.resize, first.gaussian, first.poisson, first.quality) == ((0.3, 1.5), (1, 15), (0.05, 2.0), (60, 95))
    assert (second.resize, second.gaussian, second.poisson) == ((0.6, 1.2), (1, 12), (0.05, 1.0))
    assert (first.blur_share, second.blur_share, second.quality) == (1.0, 0.5, (60, 100))
    assert (first.sigma, second.sigma) == ((0.2, 3.0), (0.2, 1.5))


def test_authors_degradation_is_milder(texture: Tensor) -> None:
    photo = texture[:, :, :64, :64]

    def error(name: str) -> float:
        degrade = degradation(name)
        lows = [degrade(photo, _generator(seed), 4).lr for seed in range(24)]
        return float(np.mean([(low - torch.nn.functional.avg_pool2d(photo, 4)).abs().mean().item() for low in lows]))

    assert error("authors") < 0.9 * error("second_order")


def test_own_ranges_from_a_file(tmp_path: Path, texture: Tensor) -> None:
    path = tmp_path / "ranges.json"
    path.write_text(json.dumps({"second": {"quality": [10, 12], "blur_share": 0}}))
    ranges = read_ranges(path)
    assert (ranges.second.quality, ranges.second.blur_share) == ((10.0, 12.0), 0.0)
    assert ranges.first == read_ranges(path).first
    photo = texture[:, :, :64, :64]
    rough, plain = degradation("authors", ranges=str(path)), degradation("authors")
    assert not torch.equal(rough(photo, _generator(1), 4).lr, plain(photo, _generator(1), 4).lr)
    for content in ({"third": {}}, {"first": {"colour": 1}}, {"first": {"quality": [9, 3]}}, [1]):
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=r"degradation_ranges .*: expected an object with `first` and `second`"):
            read_ranges(path)


def test_upright_crops_are_flipped_but_never_turned(photos: Path) -> None:
    from qusr_train.data.samples import flipped, turned_pair

    picture = torch.arange(12.0).view(1, 3, 4)
    seen = {tuple(flipped(picture, _generator(seed)).flatten().tolist()) for seed in range(20)}
    assert seen == {tuple(x.flatten().tolist()) for x in (picture, picture.flip(2))}
    for seed in range(10):
        one, other = turned_pair(picture, picture, _generator(seed), upright=True)
        assert torch.equal(one, other)
        assert tuple(one.flatten().tolist()) in seen


def test_a_sheet_to_look_at(photos: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    flags = ["--photos", str(photos), "--out", str(tmp_path / "out"), "--count", "0", "--patch", "64"]
    assert main(["degrade", *flags, "--degradation", "authors", "--upright", "--sheet", str(sheet)]) == 0
    with Image.open(sheet) as picture:
        assert picture.size == (4 * 2 * 192, 3 * 192)
