"""Any size, the dial, seeds of batches and long videos, through the server's API, with the bundled model."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.comfyui import Server, base_directory

PHOTO = "qusr-test-sizes.png"
DEFAULTS = {
    "preset": "dial", "seed": 3, "prompt": "", "strength": 1.0, "noise_strength": 1.0, "color_fix": "wavelet",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def photo() -> Any:
    """36 x 28 pixels of a bird."""
    path = base_directory() / "input" / PHOTO
    folder = Path(__file__).resolve().parents[2] / "nodes" / "example_photo"
    Image.open(folder / "osprey-small.png").convert("RGB").crop((60, 60, 96, 88)).save(path)
    yield
    path.unlink()


def graph(frames: int = 1, **settings: Any) -> dict[str, Any]:
    """The photo, several times if asked, through QUSR Upscale into previews."""
    return {
        "load": {"class_type": "LoadImage", "inputs": {"image": PHOTO}},
        "frames": {"class_type": "RepeatImageBatch", "inputs": {"image": ["load", 0], "amount": frames}},
        "upscale": {"class_type": "QUSRUpscale", "inputs": {"image": ["frames", 0], **DEFAULTS, **settings}},
        "show": {"class_type": "PreviewImage", "inputs": {"images": ["upscale", 0]}},
    }


def pictures(server: Server, prompt: dict[str, Any]) -> list[np.ndarray]:
    shown = server.run(prompt)["show"]["images"]
    return [np.asarray(Image.open(io.BytesIO(server.image(one))).convert("RGB"), dtype=float) for one in shown]


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"factor": 1.0}, (36, 28)),
        ({"factor": 2.0}, (72, 56)),
        ({"factor": 3.0}, (108, 84)),
        ({}, (144, 112)),
        ({"size": "longest side", "longest_side": 200}, (200, 156)),
        ({"size": "megapixels", "megapixels": 0.02}, (160, 125)),
    ],
)
def test_any_size(server: Server, settings: dict[str, Any], size: tuple[int, int]) -> None:
    (restored,) = pictures(server, graph(**settings))
    assert (restored.shape[1], restored.shape[0]) == size
    assert restored.std() > 10


def test_the_dial_moves_the_picture_evenly(server: Server) -> None:
    faithful, half, detail = (pictures(server, graph(detail=at))[0] for at in (0.0, 0.5, 1.0))
    (balanced,) = pictures(server, graph(preset="balanced"))
    assert np.array_equal(detail, balanced)
    whole = np.abs(detail - faithful).mean()
    assert whole > 0.05
    assert np.abs(half - faithful).mean() < whole
    assert np.abs(detail - half).mean() < whole


def test_an_image_of_a_batch_is_restored_as_if_alone(server: Server) -> None:
    alone = [pictures(server, graph(seed=3 + step))[0] for step in range(3)]
    assert not np.array_equal(alone[0], alone[1])
    each = pictures(server, graph(3, seeds="per image"))
    assert all(np.array_equal(one, other) for one, other in zip(each, alone, strict=True))
    still = pictures(server, graph(3, seeds="fixed"))
    assert all(np.array_equal(one, alone[0]) for one in still), "a video of a still picture flickers"


def _memory(server: Server, what: str) -> int:
    """`VmRSS` (now) or `VmHWM` (peak) of the server's process in bytes."""
    assert server.process is not None
    lines = Path(f"/proc/{server.process.pid}/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:"))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_two_hundred_frames_take_no_more_memory_than_their_pictures(server: Server) -> None:
    """64 x 64 to 256 x 256. ComfyUI holds the node's three results whole; beyond them the peak stays below 100 MB."""
    Image.open(base_directory() / "input" / PHOTO).resize((64, 64)).save(base_directory() / "input" / PHOTO)
    prompt = graph(2, seeds="fixed", prompt="a photo")
    prompt["first"] = {
        "class_type": "ImageFromBatch",
        "inputs": {"image": ["upscale", 0], "batch_index": 0, "length": 1},
    }
    prompt["show"]["inputs"]["images"] = ["first", 0]
    server.run(prompt)  # what is made once
    prompt["frames"]["inputs"]["amount"] = 200
    before = _memory(server, "VmRSS")
    assert server.process is not None
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5", encoding="ascii")  # begins the peak anew
    server.run(prompt)
    results = 200 * 3 * 4 * (3 * 256 * 256 + 64 * 64)  # restored, bicubic, map; the frames themselves
    grown = _memory(server, "VmHWM") - before - results
    print(f"grown by {grown / 1e6:.0f} MB beyond {results / 1e6:.0f} MB of pictures")
    assert grown < 100e6
