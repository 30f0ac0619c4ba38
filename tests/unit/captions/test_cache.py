"""Captions on disk: what is known is not asked again, in one process or several."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from qusr_train.captions.cache import CaptionCache, caption_images, key_of
from qusr_train.captions.captioner import Caption, CaptionError, Progress
from qusr_train.captions.instruction import tidy
from qusr_train.captions.measured import MeasuredCaptioner

ROOT = Path(__file__).parents[3]


class Counting:
    """Says the mean of a picture, and counts how often it was asked."""

    def __init__(self, identity: str = "counting") -> None:
        self.identity = identity
        self.asked = 0

    def describe(self, images: Sequence[Tensor], progress: Progress) -> list[Caption]:
        self.asked += len(images)
        progress(len(images))
        return [Caption(f"mean {image.mean():.4f}", {"mean": float(image.mean())}) for image in images]


@pytest.fixture
def cache(tmp_path: Path) -> CaptionCache:
    return CaptionCache(tmp_path / "sub" / "captions.sqlite3")


def _pictures(count: int) -> list[Tensor]:
    return [torch.full((3, 4, 5), n / 255) for n in range(count)]


def test_a_hit_asks_nobody(cache: CaptionCache) -> None:
    first = Counting()
    captions = caption_images(first, _pictures(3), cache)
    second = Counting()
    counts: list[int] = []
    assert caption_images(second, _pictures(3), cache, counts.append) == captions
    assert (first.asked, second.asked, sum(counts)) == (3, 0, 3)


def test_only_the_missing_ones_are_asked_in_order(cache: CaptionCache) -> None:
    caption_images(Counting(), _pictures(2), cache)
    counting, counts = Counting(), list[int]()
    captions = caption_images(counting, _pictures(5)[::-1], cache, counts.append)
    assert counting.asked == 3
    assert sum(counts) == 5
    assert [c.text for c in captions] == [f"mean {n / 255:.4f}" for n in (4, 3, 2, 1, 0)]


def test_equal_pictures_are_asked_once_without_a_cache() -> None:
    counting, counts = Counting(), list[int]()
    captions = caption_images(counting, _pictures(1) * 3, None, counts.append)
    assert (counting.asked, len(captions), sum(counts)) == (1, 3, 3)


def test_another_captioner_or_picture_is_another_caption(cache: CaptionCache) -> None:
    caption_images(Counting(), _pictures(1), cache)
    other = Counting("another instruction")
    caption_images(other, _pictures(1), cache)
    assert other.asked == 1
    picture = torch.rand(3, 4, 6)
    assert key_of(picture, "a") != key_of(picture.reshape(3, 6, 4), "a")
    assert key_of(picture, "a") == key_of(picture.clone(), "a")


def test_the_longest_unused_are_dropped(cache: CaptionCache) -> None:
    cache.limit = 3
    pictures = _pictures(5)
    for one in pictures[:3]:
        caption_images(Counting(), [one], cache)
    caption_images(Counting(), pictures[:1], cache)  # used again
    caption_images(Counting(), pictures[3:], cache)
    known = cache.read([key_of(one, "counting") for one in pictures])
    assert list(known) == [key_of(pictures[n], "counting") for n in (0, 3, 4)]


def test_a_damaged_file_costs_only_the_cache(cache: CaptionCache) -> None:
    cache.path.parent.mkdir()
    cache.path.write_bytes(b"not a database" * 1000)
    assert caption_images(Counting(), _pictures(1), cache)[0].text == "mean 0.0000"
    again = Counting()
    caption_images(again, _pictures(1), cache)  # the damaged file was set aside
    caption_images(again, _pictures(1), cache)
    assert again.asked <= 1


def test_a_folder_that_cannot_be_written_costs_only_the_cache(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    captions = caption_images(Counting(), _pictures(1), CaptionCache(tmp_path / "file" / "captions.sqlite3"))
    assert captions[0].text == "mean 0.0000"


def test_several_processes_write_at_once(cache: CaptionCache) -> None:
    script = (
        "import sys; from pathlib import Path; from qusr_train.captions.cache import CaptionCache\n"
        "from qusr_train.captions.captioner import Caption\n"
        "cache = CaptionCache(Path(sys.argv[1]))\n"
        "for n in range(40): cache.write({f'{sys.argv[2]}-{n}': Caption(sys.argv[2], {'n': n})})\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script, str(cache.path), str(number)], cwd=ROOT, stderr=subprocess.PIPE)
        for number in range(3)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0
        assert b"cache" not in errors, errors
    found = cache.read([f"{process}-{n}" for process in range(3) for n in range(40)])
    assert len(found) == 120
    assert found["2-39"] == Caption("2", {"n": 39})


def test_measured_captioner_gives_its_numbers() -> None:
    images = [torch.rand(3, 32, 40), torch.rand(3, 24, 24)]
    counts: list[int] = []
    captions = MeasuredCaptioner().describe(images, counts.append)
    assert counts == [1, 1]
    assert all(caption.text.startswith("The low-resolution image has ") for caption in captions)
    assert captions[0].numbers is not None
    assert captions[0].numbers["noise"] > 30


def test_errors_pass_through_and_nothing_is_kept(cache: CaptionCache) -> None:
    class Failing(Counting):
        def describe(self, images: Sequence[Tensor], progress: Progress) -> list[Caption]:
            raise CaptionError("no")

    with pytest.raises(CaptionError):
        caption_images(Failing(), _pictures(1), cache)
    assert cache.read([key_of(_pictures(1)[0], "counting")]) == {}


@pytest.mark.parametrize(
    ("answer", "words", "expected"),
    [
        ("  Two\n lines. ", 60, "Two lines."),
        ("One two three. Four five.", 4, "One two three."),
        ("One. Two three four five six", 4, "One. Two three four"),
        ("One two three", 0, "One two three"),
        ("<think>a b c", 5, ""),
        ("", 5, ""),
    ],
)
def test_tidy(answer: str, words: int, expected: str) -> None:
    assert tidy(answer, words) == expected
