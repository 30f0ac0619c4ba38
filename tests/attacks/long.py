"""Long attacks on a running ComfyUI and on training, counted: python -m tests.attacks.long kills|images --count N

They take hours; RESULTS.md has what was measured. Each prints one line with its figures, and exits with 1 on a failure.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from tests.support.comfyui import Server, base_directory

ROOT = Path(__file__).resolve().parents[2]


def _command(work: Path, out: Path, steps: int) -> list[str]:
    flags = {
        "photos": work / "photos", "out": out, "stage": "base", "steps": steps, "batch_size": 1, "patch": 64,
        "save_every": 1, "log_every": 1, "sample_every": 0, "precision": "no", "tracker": "none", "workers": 0,
    }  # fmt: skip
    pairs = [item for name, value in flags.items() for item in (f"--{name}", str(value))]
    return [sys.executable, "-m", "qusr_train", "train", *pairs, "--photo_factors", "1.0"]


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def kills(count: int, steps: int = 6) -> bool:
    """Kill nano's training at random moments, let it end, and compare its model with that of a run in peace."""
    chance, done, wrong, left = random.Random(0), 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "photos").mkdir()
        Image.effect_noise((128, 128), 40).convert("RGB").save(work / "photos" / "a.png")
        started = time.monotonic()
        subprocess.run(_command(work, work / "peace", steps), cwd=ROOT, check=True, capture_output=True)
        length, expected = time.monotonic() - started, _hash(work / "peace" / "base.safetensors")
        while done < count:
            out = work / f"run{done}"
            ended = False
            while not ended:
                process = subprocess.Popen(
                    _command(work, out, steps), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
                )
                kill = done < count and chance.random() < 0.8
                try:
                    # Most of a short run is imports: aim at its second half, where it steps and writes.
                    process.wait(length * chance.uniform(0.4, 1.1) if kill else None)
                    ended = True
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                    done += 1
            wrong += process.returncode != 0 or _hash(out / "base.safetensors") != expected
            left += len(list(out.glob(".qusr-*")))
    print(json.dumps({"kills": done, "runs that ended otherwise": wrong, "files left": left}))
    return not wrong and not left


def images(count: int) -> bool:
    """Send pictures through a server, and watch its memory and its temp folder."""
    rows = []
    temp = base_directory() / "temp" / "qusr"
    with Server() as server:
        assert server.process is not None
        status = Path(f"/proc/{server.process.pid}/status")
        for number in range(count):
            server.run(_graph(number))
            if number % max(1, count // 20) == 0 or number == count - 1:
                memory = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
                size = sum(path.stat().st_size for path in temp.glob("*"))
                rows.append((number, int(memory.split()[1]) // 1024, size // 1024))
                print(f"{number}: {rows[-1][1]} MB in memory, {rows[-1][2]} KB in temp", flush=True)
    middle, last = rows[len(rows) // 2], rows[-1]
    flat = last[1] < 1.1 * middle[1] and last[2] < 1.1 * middle[2] + 100
    print(json.dumps({"images": count, "flat": flat, "middle": middle, "last": last}))
    return flat


def _graph(number: int) -> dict[str, object]:
    shape = {"width": 32 + number % 5 * 8, "height": 40, "batch_size": 1, "color": number * 7919 % 0xFFFFFF}
    upscale = {"image": ["1", 0], "preset": "balanced", "seed": number, "prompt": "", "strength": 1.0,
               "noise_strength": 1.0, "color_fix": "wavelet"}  # fmt: skip
    view = {"uncertainty": ["2", 1], "image": ["2", 0], "colormap": "turbo", "opacity": 0.5, "range": "auto",
            "range_min": 0.0, "range_max": 1.0, "legend": False}  # fmt: skip
    return {
        "1": {"class_type": "EmptyImage", "inputs": shape},
        "2": {"class_type": "QUSRUpscale", "inputs": upscale},
        "3": {"class_type": "QUSRCompare", "inputs": {"before": ["1", 0], "after": ["2", 0]}},
        "4": {"class_type": "QUSRUncertaintyView", "inputs": view},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("attack", choices=("kills", "images"))
    parser.add_argument("--count", type=int, required=True)
    arguments = parser.parse_args()
    sys.exit(0 if {"kills": kills, "images": images}[arguments.attack](arguments.count) else 1)
