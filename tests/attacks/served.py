"""Pictures and interrupts through a running ComfyUI: every result is compared with the first one of its kind."""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from tests.support.comfyui import PromptFailed, Server, base_directory

PHOTO = Path(__file__).resolve().parents[2] / "nodes" / "example_photo" / "osprey-small.png"
KINDS = 40
"""Different pictures; their results come again and again, and must be the same each time."""
AHEAD = 10  # prompts in the queue: the server never waits for this process

Graph = dict[str, dict[str, Any]]


@contextmanager
def pictures(side: int = 32) -> Iterator[list[str]]:
    """Crops of the bundled photo in the server's input folder, as names for LoadImage."""
    folder = base_directory() / "input"
    chance, names = random.Random(0), [f"attack-{number}.png" for number in range(KINDS)]
    with Image.open(PHOTO) as photo:
        whole = photo.convert("RGB")
    for number, name in enumerate(names):
        size = (side, side if number % 2 else side + number % 9)
        left, top = (chance.randrange(max(1, a - b)) for a, b in zip(whole.size, size, strict=True))
        whole.crop((left, top, left + size[0], top + size[1])).save(folder / name)
    try:
        yield names
    finally:
        for name in names:
            (folder / name).unlink()


def graph(picture: str, seed: int, batch: int = 1) -> Graph:
    """Upscale, compare and view one picture, or it in a batch."""
    upscale = {"image": ["2", 0], "preset": "balanced", "seed": seed, "prompt": "", "strength": 1.0,
               "noise_strength": 1.0, "color_fix": "wavelet"}  # fmt: skip
    view = {"uncertainty": ["3", 1], "image": ["3", 0], "colormap": "turbo", "opacity": 0.5, "range": "auto",
            "range_min": 0.0, "range_max": 1.0, "legend": False}  # fmt: skip
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": picture}},
        "2": {"class_type": "RepeatImageBatch", "inputs": {"image": ["1", 0], "amount": batch}},
        "3": {"class_type": "QUSRUpscale", "inputs": upscale},
        "4": {"class_type": "QUSRCompare", "inputs": {"before": ["1", 0], "after": ["3", 0]}},
        "5": {"class_type": "QUSRUncertaintyView", "inputs": view},
    }


def shown(outputs: dict[str, Any]) -> list[str]:
    """What a run shows: the names of its pictures and maps, which are hashes of their content."""
    compared = [pair[side]["filename"] for pair in outputs["4"]["qusr_compare"] for side in ("before", "after")]
    text = json.dumps(outputs["5"], sort_keys=True)
    return [*compared, text]


def queue(server: Server, prompt: Graph) -> str:
    return str(server.post("/prompt", {"prompt": prompt, "client_id": uuid.uuid4().hex})["prompt_id"])


def ended(server: Server, prompt_id: str, timeout: float = 600.0) -> dict[str, Any]:
    """A prompt's entry in the history, once it is there."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        history = server.get(f"/history/{prompt_id}")
        if prompt_id in history:
            return dict(history[prompt_id])
        time.sleep(0.05)
    raise PromptFailed(f"no result within {timeout} s", None)


def result(entry: dict[str, Any]) -> list[str]:
    """What a run that ended well shows. Raises PromptFailed: it did not."""
    if entry["status"]["status_str"] != "success":
        raise PromptFailed("a run ended otherwise", entry["status"]["messages"])
    return shown(entry["outputs"])


def _memory(server: Server) -> int:
    """MB that the server's process holds."""
    assert server.process is not None
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) // 1024


def _temp() -> list[Path]:
    return [path for path in (base_directory() / "temp" / "qusr").glob("*") if path.is_file()]


def images(server: Server, count: int, progress: Path | None = None) -> dict[str, Any]:
    """Send pictures through a server: its results, its memory and its temp folder. The history is forgotten meanwhile.

    Args:
        count: of pictures; each kind comes count / KINDS times.
        progress: where figures are appended while it runs.
    """
    first: dict[int, list[str]] = {}
    rows: list[tuple[int, int, int, int]] = []
    wrong, waiting, read = 0, [], []
    with pictures() as names:
        for number in range(count + AHEAD):
            if number < count:
                kind = number % KINDS
                waiting.append((number, queue(server, graph(names[kind], kind))))
            if len(waiting) < AHEAD and number < count:
                continue
            if not waiting:
                break
            done, prompt_id = waiting.pop(0)
            seen = result(ended(server, prompt_id))
            wrong += seen != first.setdefault(done % KINDS, seen)
            read.append(prompt_id)
            if done % max(1, count // 20) == 0 or done == count - 1:
                files = _temp()
                rows.append((done, _memory(server), sum(path.stat().st_size for path in files) // 1024, len(files)))
                if progress:
                    with progress.open("a", encoding="utf-8") as log:
                        log.write(f"{time.strftime('%H:%M:%S')} picture, MB, KB in temp, files: {rows[-1]}\n")
                server.post("/history", {"delete": read})
                read.clear()
    after_start, last = rows[min(2, len(rows) - 1)], rows[-1]
    flat = last[1] < 1.1 * after_start[1] and last[2] < 1.1 * after_start[2] + 100
    return {"images": count, "wrong": wrong, "flat": flat, "after a tenth": after_start, "last": last}


def interrupts(server: Server, count: int) -> dict[str, Any]:
    """Interrupt runs at random moments; the run after each must be as one that was never disturbed."""
    chance, stopped, too_late, wrong, left = random.Random(0), 0, 0, 0, 0
    with pictures(48) as names:
        quiet = {name: result(ended(server, queue(server, graph(name, 1)))) for name in names[:4]}
        started = time.monotonic()
        result(ended(server, queue(server, graph(names[0], 2, batch=4))))
        length = time.monotonic() - started
        number = 0
        while stopped < count:
            number += 1
            prompt_id = queue(server, graph(names[number % KINDS], 100 + number, batch=4))
            time.sleep(length * chance.random())
            server.post("/interrupt", {})
            entry = ended(server, prompt_id)
            if entry["status"]["status_str"] == "success":
                too_late += 1
            else:
                messages = [message[0] for message in entry["status"]["messages"]]
                assert "execution_interrupted" in messages, entry["status"]
                stopped += 1
            name = names[number % 4]
            wrong += result(ended(server, queue(server, graph(name, 1)))) != quiet[name]
            left += sum(path.suffix == ".part" for path in _temp())
    return {"interrupts": stopped, "that came too late": too_late, "wrong runs after": wrong, "files left": left}
