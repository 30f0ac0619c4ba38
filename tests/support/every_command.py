"""Run every command of the command line once and print what became of it, as JSON: command -> [exit code, stderr]."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
import traceback
from pathlib import Path

import numpy as np
from PIL import Image

from qusr_train.checkpoints.nano_file import BUNDLED
from qusr_train.cli.main import main

from .golden import GOLDEN
from .tiny_qwen import build


def commands(folder: Path) -> dict[str, list[str]]:
    """A command line for each command; the names say what differs."""
    pairs = folder / "pairs"
    for name, side in (("photos/a", 96), ("pairs/lr/a", 8), ("pairs/hr/a", 32)):
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    build(folder / "qwen")
    photos, low = str(folder / "photos"), str(pairs / "lr")
    training = ["--photos", photos, "--out", str(folder / "run"), "--steps", "1", "--patch", "64", "--batch_size", "1"]
    qusr = [*training, "--stage", "qusr", "--init", str(BUNDLED)]
    return {
        "restore": ["restore", low, str(folder / "restored")],
        "evaluate": ["evaluate", "--pred", str(pairs / "hr"), "--gt", str(pairs / "hr")],
        "train base": ["train", *training],
        "train qusr": ["train", *qusr],
        "train sd21": ["train", "sd21", *training, "--init", str(folder)],
        "ablation": ["ablation", "--eval", str(pairs), *qusr],
        "degrade": ["degrade", "--photos", photos, "--out", str(folder / "made"), "--count", "1", "--patch", "64"],
        "photos": ["photos", str(folder / "fetched")],
        "caption": ["caption", low, "--out", str(folder / "measured.jsonl")],
        "caption qwen": [
            "caption", low, "--captioner", "qwen", "--model", str(folder / "qwen"), "--out", str(folder / "q.jsonl"),
            "--max_words", "4",
        ],
        "convert": ["convert", str(GOLDEN / "checkpoints" / "qusr.pkl"), str(folder / "qusr.safetensors")],
        "export": ["export", str(GOLDEN / "checkpoints" / "qusr.pkl"), str(folder / "lora.safetensors")],
        "calibrate": [
            "calibrate", str(BUNDLED), "--pairs", str(pairs), "--out", str(folder / "calibrated.safetensors"),
            "--confidence", "0.3",  # one pair is enough for that
        ],
        "scale": ["scale", str(BUNDLED), str(folder / "scaled.safetensors"), "--residual", "0.5"],
        "download": ["download", "taesd", "--folder", str(folder / "weights")],
    }  # fmt: skip


def run_all(folder: Path) -> dict[str, tuple[int, str]]:
    """Every command, one after the other."""
    os.environ["PATH"] = ""  # `photos` asks for Debian's apt: no test fetches them
    os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"  # and no test downloads
    outcomes: dict[str, tuple[int, str]] = {}
    for name, arguments in commands(folder).items():
        told = io.StringIO()
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
            try:
                code = main(arguments)
            except SystemExit as stop:
                code = int(stop.code or 0)
            except BaseException:
                code = 1
                traceback.print_exc()
        outcomes[name] = code, told.getvalue()
    return outcomes


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        json.dump(run_all(Path(place)), sys.stdout)
