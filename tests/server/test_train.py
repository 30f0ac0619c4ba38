"""Train -> checkpoint -> load -> picture, in a real ComfyUI, as an artist does it."""

from __future__ import annotations

import io
import json
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.comfyui import PromptFailed, Server, base_directory

ROOT = Path(__file__).resolve().parents[2]
MORE = {"photo_factors": [1.0], "workers": 0, "precision": "no", "learning_rate": 0.01, "warmup": 0, "sample_every": 3}


@pytest.fixture
def name() -> Iterator[str]:
    """A run's name; what it leaves in ComfyUI's folders is removed."""
    chosen = f"test-{uuid.uuid4().hex[:8]}"
    yield chosen
    (base_directory() / "models" / "qusr" / f"{chosen}.safetensors").unlink(missing_ok=True)
    shutil.rmtree(base_directory() / "input" / chosen, ignore_errors=True)
    shutil.rmtree(base_directory() / "output" / "qusr-training" / chosen, ignore_errors=True)


def _checkpoints(server: Server) -> list[str]:
    """What QUSR Nano Loader offers; the browser asks for the same when R is pressed."""
    kind, options = server.get("/object_info/QUSRNanoLoader")["QUSRNanoLoader"]["input"]["optional"]["checkpoint"]
    return options["options"] if kind == "COMBO" else kind


def _graph(checkpoint: str) -> dict[str, Any]:
    return {
        "1": {"class_type": "QUSRExamplePhoto", "inputs": {}},
        "2": {"class_type": "QUSRNanoLoader", "inputs": {"lora_strength": 1.0, "checkpoint": checkpoint}},
        "3": {
            "class_type": "QUSRUpscale",
            "inputs": {
                "image": ["1", 0], "preset": "balanced", "seed": 1, "prompt": "", "strength": 1.0,
                "noise_strength": 1.0, "color_fix": "wavelet",
                "model": ["2", 0], "clip": ["2", 1], "vae": ["2", 2], "uem": ["2", 3],
            },
        },
        "4": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}},
    }  # fmt: skip


def _picture(server: Server, shown: dict[str, Any]) -> np.ndarray:
    image = Image.open(io.BytesIO(server.image(shown["images"][0]))).convert("RGB")
    return np.asarray(image, dtype=np.float64)


def test_train_load_restore(server: Server, name: str) -> None:
    bundled, file = _checkpoints(server)[0], f"{name}.safetensors"
    photos = base_directory() / "input" / name
    photos.mkdir()
    shutil.copy(ROOT / "nodes" / "example_photo" / "osprey-small.png", photos / "photo.png")
    training = {
        "photos": name, "name": name, "model": "qusr-nano", "steps": 3, "batch_size": 1, "patch": 64,
        "seed": 1, "more": json.dumps(MORE),
    }  # fmt: skip
    shown = server.run({
        "1": {"class_type": "QUSRTrain", "inputs": training},
        "2": {"class_type": "QUSRLossPlot", "inputs": {"run": ["1", 1]}},
    })  # fmt: skip
    assert _picture(server, shown["1"]).shape == (64, 256, 3)  # input, result, target, uncertainty
    assert _picture(server, shown["2"]).std() > 5
    assert file in _checkpoints(server)

    trained, before = (_picture(server, server.run(_graph(name))["4"]) for name in (file, bundled))
    assert trained.shape == before.shape == (768, 768, 3)
    assert 0.1 < np.abs(trained - before).mean() < 30, "fine-tuned, but still the same photo"

    wrong = _graph(bundled)
    settings = {"model": ["2", 0], "checkpoint": file, "strength": 1.0, "pixel": 1.0, "semantic": 1.0}
    wrong["5"] = {"class_type": "QUSRLoader", "inputs": settings}
    wrong["3"]["inputs"]["model"] = ["5", 0]
    with pytest.raises(PromptFailed, match="choose it in QUSR Nano Loader"):
        server.run(wrong)
