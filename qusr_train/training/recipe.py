"""What a run tells about itself: settings, versions and data, in the model's metadata and in a card beside it."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

from ..files import write_whole
from ..images.find import find_images
from .config import TrainConfig

PACKAGES = ("torch", "diffusers", "transformers", "peft", "accelerate", "lpips")
PATHS = (
    "photos",
    "more_photos",
    "degradation_ranges",
    "pairs",
    "camera_pairs",
    "init",
    "init_checkpoint",
    "validate",
    "lpips_backbone",
)
"""Settings of which only the last part is told: where it lay is nobody's business."""
NOT_TOLD = ("out", "workers", "save_every", "log_every", "sample_every", "tracker")


def settings(config: TrainConfig) -> dict[str, Any]:
    """The settings that make a model what it is."""
    values = {name: value for name, value in dataclasses.asdict(config).items() if name not in NOT_TOLD}
    named = {name: " ".join(Path(part).name for part in values[name].split(",")) for name in PATHS}
    return json.loads(json.dumps({**values, **named}))


def versions() -> dict[str, str]:
    """The libraries that were at work."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def data_digest(config: TrainConfig) -> dict[str, Any]:
    """Number of training pictures, and a digest of their names and sizes: tells whether it is the same data."""
    folder = Path(config.pairs) / "lr" if config.pairs else Path(config.photos)
    files = [(path.relative_to(folder).as_posix(), path.stat().st_size) for path in find_images(folder)]
    return {"pictures": len(files), "digest": hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]}


def write_card(path: Path, model: str, summary: dict[str, Any]) -> None:
    """A model card in Markdown: how to use the model, what it measured, and how it was made."""
    recipe, validation = summary.get("settings", {}), summary.get("validation", {})
    sd21 = recipe.get("stage") == "sd21"
    use = f"put `{model}` into `ComfyUI/models/qusr`" if sd21 else "choose it as `checkpoint` in *QUSR Nano Loader*"
    base = " --base stable-diffusion-2-1-base/" if sd21 else ""
    rows = "".join(f"| {name} | {value} |\n" for name, value in sorted(validation.items()))
    lines = [
        "---", "base_model: stabilityai/stable-diffusion-2-1-base" if sd21 else "base_model: qusr-nano",
        "pipeline_tag: image-to-image", "tags: [super-resolution, qusr]", "---", "", f"# {model}", "",
        f"QUSR (arXiv 2603.09125), {summary['steps']} steps. In ComfyUI {use}; without it:", "",
        "```", f"python -m qusr_train restore photo.jpg large.png --model {model}{base}", "```", "",
        *(["| validation | best |", "|---|---|", rows] if rows else []),
        f"Data: {summary.get('data', {})}. Made with {summary.get('versions', {})}.", "",
        "Settings:", "", "```json", json.dumps(recipe, indent=1, sort_keys=True), "```", "",
    ]  # fmt: skip
    with write_whole(path) as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8")
