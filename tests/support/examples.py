"""The example workflows by name: a template is called in the browser what its file is called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[2] / "example_workflows"

UPSCALE = "Upscale a photo"
STEPS = "Upscale step by step"
SUBGRAPH = "Upscale with a subgraph"
PROMPTS = "One photo, two prompts"
APP = "Upscale app"
SD21 = "Upscale with SD 2.1"
LIGHT_DECODER = "SD 2.1 with a light decoder"
PISA_SR = "PiSA-SR with two strengths"
CODSR = "CODSR with a photo guide"
VIDEO = "Upscale a video with SD 2.1"

BUNDLED = (UPSCALE, STEPS, SUBGRAPH, PROMPTS, APP)
"""Those that run as they are, with the bundled model."""
WITH_WEIGHTS = (SD21, LIGHT_DECODER, PISA_SR, CODSR, VIDEO)
ALL = tuple(sorted(BUNDLED + WITH_WEIGHTS))


def example(name: str) -> dict[str, Any]:
    """A workflow as the front end saves it."""
    workflow: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return workflow
