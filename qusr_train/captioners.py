"""One interface for everything that describes a photo's quality, used by the nodes and by dataset preparation.

A captioner turns pictures into texts. It names what its texts depend on (`identity`), so that they
can be cached, and does nothing expensive before its first picture.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from .quality import INSTRUCTION, describe, measure_quality

if TYPE_CHECKING:
    from .caption_cache import CaptionCache

MAX_WORDS = 60
"""Words asked of a language model, as in the reference."""

Progress = Callable[[int], None]
"""Called with the number of pictures just described; may raise to stop."""


class CaptionError(ValueError):
    """A captioner that could not answer; the message says why and what to do."""


@dataclass(frozen=True)
class Caption:
    """What a captioner says of one picture."""

    text: str
    numbers: dict[str, float] | None = None
    """Measurements behind the text, where the captioner has them."""


class Captioner(Protocol):
    """Describes pictures; the same for the same picture, whatever else is in the batch."""

    @property
    def identity(self) -> str:
        """Everything besides the picture that the text depends on."""

    def describe(self, images: Sequence[Tensor], progress: Progress) -> list[Caption]:
        """One caption for each (3, H, W) picture in [0, 1], of any sizes.

        Raises:
            CaptionError: cannot be done.
        """


@dataclass(frozen=True)
class MeasuredCaptioner:
    """Numbers measured on the picture, in the words of the paper's instruction (see `quality.py`)."""

    @property
    def identity(self) -> str:
        return "measured 2"

    def describe(self, images: Sequence[Tensor], progress: Progress) -> list[Caption]:
        captions = []
        for image in images:
            quality = measure_quality(image[None])[0]
            captions.append(Caption(describe(quality), dataclasses.asdict(quality)))
            progress(1)
        return captions


def request_for(instruction: str, max_words: int) -> str:
    """What a language model is asked: the instruction, and how long the answer may be."""
    instruction = instruction.strip() or INSTRUCTION
    return f"{instruction} Answer in at most {max_words} words." if max_words else instruction


def tidy(answer: str, max_words: int) -> str:
    """A model's answer as a prompt: one line, without its thoughts or markup, at most `max_words` words (0: all).

    A longer answer ends with its last whole sentence, if at least half of the words are kept.
    """
    answer = re.sub(r"<think>.*?(</think>|$)", " ", answer, flags=re.DOTALL)
    answer = re.sub(r"[*#`]+", "", answer)
    words = "".join(c if c.isprintable() else " " for c in answer).split()
    if max_words and len(words) > max_words:
        words = words[:max_words]
        ends = [n for n, word in enumerate(words, 1) if word[-1] in ".!?"]
        if ends and ends[-1] * 2 >= max_words:
            words = words[: ends[-1]]
    return " ".join(words)


def caption_images(
    captioner: Captioner,
    images: Sequence[Tensor],
    cache: CaptionCache | None = None,
    progress: Progress = lambda count: None,
) -> list[Caption]:
    """Describe pictures, from the cache where it knows them.

    Equal pictures are described once. Nothing of the captioner is loaded when all are in the cache.

    Args:
        captioner: any.
        images: (3, H, W) in [0, 1].
        cache: None describes all anew.
        progress: see `Progress`; hits count too.

    Raises:
        CaptionError: from the captioner.
    """
    from .caption_cache import key_of

    keys = [key_of(image, captioner.identity) for image in images]
    known = cache.read(keys) if cache else {}
    missing = {key: image for key, image in zip(keys, images, strict=True) if key not in known}
    if len(images) > len(missing):
        progress(len(images) - len(missing))
    if missing:
        fresh = captioner.describe(list(missing.values()), progress)
        described = dict(zip(missing, fresh, strict=True))
        if cache:
            cache.write(described)
        known = {**known, **described}
    return [known[key] for key in keys]
