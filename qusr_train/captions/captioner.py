"""One interface for everything that describes a photo's quality, used by the nodes and by dataset preparation.

A captioner turns pictures into texts. It names what its texts depend on (`identity`), so that they
can be cached, and does nothing expensive before its first picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..errors import InputError

Progress = Callable[[int], None]
"""Called with the number of pictures just described; may raise to stop."""


class CaptionError(InputError):
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
