"""The Qwen-VL models: those that are published, those that lie in model folders, and how one is fetched."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..packages import require_packages
from .captioner import CaptionError
from .qwen import FAMILIES, first_line

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


def download_qwen(repository: str, folder: Path, progress: Callable[[int, int], None]) -> None:
    """Fetch a model from Hugging Face (or the mirror in HF_ENDPOINT) into a folder; goes on where it was cut.

    Args:
        repository: such as Qwen/Qwen2.5-VL-7B-Instruct.
        folder: the target.
        progress: called with files done and files in all; may raise to stop between files.

    Raises:
        CaptionError: cannot be fetched.
    """
    require_packages("a download", ["huggingface_hub"], "A folder that you put there yourself works without.")
    from huggingface_hub import HfApi, hf_hub_download

    wanted = (".json", ".safetensors", ".txt", ".jinja", ".model")
    try:
        siblings = HfApi().model_info(repository, timeout=30).siblings or []
    except Exception as error:  # the hub's errors have no common base across its versions
        raise _not_downloaded(repository, folder, error) from error
    # The weights last, and config.json after them: a folder with it is complete.
    names = sorted(
        (s.rfilename for s in siblings if s.rfilename.endswith(wanted) and "/" not in s.rfilename),
        key=lambda name: (name == "config.json", name.endswith(".safetensors"), name),
    )
    if "config.json" not in names:
        raise CaptionError(f"{repository} holds no model for transformers", field="model")
    for done, name in enumerate(names):
        progress(done, len(names))
        try:
            hf_hub_download(repository, name, local_dir=folder)
        except Exception as error:
            raise _not_downloaded(repository, folder, error) from error
    progress(len(names), len(names))


def _not_downloaded(repository: str, folder: Path, error: Exception) -> CaptionError:
    return CaptionError(
        f"{repository} cannot be downloaded ({first_line(error)}). Check the connection, set HF_ENDPOINT to a "
        f"mirror, or put the files into {folder} yourself",
        field="model",
    )
