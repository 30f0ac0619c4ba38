"""The Qwen-VL models that are published, and those that lie in model folders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .qwen import FAMILIES

APACHE = "Apache-2.0"
RESEARCH = "Qwen Research License (no commercial use)"


@dataclass(frozen=True)
class PublishedQwen:
    """A model on Hugging Face."""

    repository: str
    licence: str

    @property
    def name(self) -> str:
        """Also the name of its folder."""
        return self.repository.split("/")[-1]


# The paper's captioner comes first.
PUBLISHED = {
    model.name: model
    for model in (
        PublishedQwen("Qwen/Qwen2.5-VL-7B-Instruct", APACHE),
        PublishedQwen("Qwen/Qwen2.5-VL-7B-Instruct-AWQ", APACHE),
        PublishedQwen("Qwen/Qwen2.5-VL-3B-Instruct", RESEARCH),
        PublishedQwen("Qwen/Qwen2.5-VL-3B-Instruct-AWQ", RESEARCH),
        PublishedQwen("Qwen/Qwen3-VL-2B-Instruct", APACHE),
        PublishedQwen("Qwen/Qwen3-VL-4B-Instruct", APACHE),
        PublishedQwen("Qwen/Qwen3-VL-8B-Instruct", APACHE),
    )
}


def find_qwen(folders: Sequence[Path]) -> dict[str, Path]:
    """The Qwen-VL folders directly in `folders` or one level below, by name; the first of a name counts."""
    found: dict[str, Path] = {}
    for folder in folders:
        for config in sorted([*folder.glob("*/config.json"), *folder.glob("*/*/config.json")]):
            try:
                family = json.loads(config.read_text(encoding="utf-8")).get("model_type")
            except (OSError, ValueError, AttributeError):
                continue
            if family in FAMILIES:
                found.setdefault(config.parent.name, config.parent)
    return found
