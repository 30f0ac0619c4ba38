"""`make demo`: run the bundled example workflow through a real ComfyUI server and save what it makes.

With IMAGE=path, the example photo is replaced by that picture.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from qusr_train.evaluation.fidelity import psnr, ssim
from tests.support.comfyui import HOST, ROOT, Server, base_directory
from tests.support.examples import STEPS, example
from tests.support.workflow import preview_output, to_prompt

OUTPUT = ROOT / "demo-output"


def use_own_image(prompt: dict[str, Any], image: str) -> None:
    """Swap the example photo for LoadImage."""
    source = Path(image).expanduser()
    try:
        with Image.open(source) as opened:
            opened.verify()
    except (OSError, SyntaxError) as error:
        raise SystemExit(f"IMAGE={image}: cannot be read as an image ({error})") from error
    name = "demo-" + re.sub(r"[^\w.-]", "_", source.name)
    shutil.copy(source, base_directory() / "input" / name)
    for node in prompt.values():
        if node["class_type"] == "QUSRExamplePhoto":
            node["class_type"], node["inputs"] = "LoadImage", {"image": name}


def save_outputs(
    server: Server, prompt: dict[str, Any], outputs: dict[str, Any], watched: dict[str, str]
) -> dict[str, Path]:
    """Fetch what the workflow made, under telling names."""
    names = {node_id: "upscaled.png" for node_id, node in prompt.items() if node["class_type"] == "SaveImage"} | watched
    OUTPUT.mkdir(exist_ok=True)
    saved = {}
    for node_id, output in outputs.items():
        name = names.get(node_id)
        if name and output.get("images"):
            (OUTPUT / name).write_bytes(server.image(output["images"][0]))
            saved[name] = OUTPUT / name
        if prompt[node_id]["class_type"] == "QUSRQualityPrompt":
            (OUTPUT / "prompt.txt").write_text(output["text"][0] + "\n", encoding="utf-8")
            saved["prompt.txt"] = OUTPUT / "prompt.txt"
    return saved


def figures(result: Path, small: Path, original: Path | None) -> list[str]:
    """PSNR and SSIM on Y of the result and of bicubic, against the original."""
    if original is None:
        return ["PSNR: not measured, there is no original to compare with"]

    def load(image: Image.Image) -> np.ndarray:
        return np.asarray(image.convert("RGB"), dtype=np.float64) / 255.0

    truth = load(Image.open(original))
    bicubic = load(Image.open(small).convert("RGB").resize(truth.shape[1::-1], Image.Resampling.BICUBIC))
    restored = load(Image.open(result))
    rows = [(name, psnr(x, truth), ssim(x, truth)) for name, x in (("bicubic", bicubic), ("QUSR nano", restored))]
    return [f"{name:10s} PSNR {p:.2f} dB  SSIM {s:.4f}" for name, p, s in rows]


def main() -> int:
    """Run the demo; returns the exit status."""
    image = os.environ.get("IMAGE", "")
    with Server() as server:
        prompt = to_prompt(example(STEPS), server.get("/object_info"))
        if image:
            use_own_image(prompt, image)
        watched = {
            preview_output(prompt, "QUSRCompare"): "before-after.png",
            preview_output(prompt, "QUSRUncertaintyView", 1): "uncertainty.png",
        }
        started = time.monotonic()
        outputs = server.run(prompt, timeout=3600)
        seconds = time.monotonic() - started
        saved = save_outputs(server, prompt, outputs, watched)
    photos = ROOT / "nodes" / "example_photo"
    print("\nQUSR demo, run by a real ComfyUI server:")
    for label, name in (
        ("upscaled image", "upscaled.png"),
        ("before / after", "before-after.png"),
        ("uncertainty", "uncertainty.png"),
    ):
        print(f"  {label:15s} {saved[name].relative_to(ROOT)}")
    print(f"  {'quality prompt':15s} {saved['prompt.txt'].read_text(encoding='utf-8').strip()}")
    print(f"  {'time':15s} {seconds:.1f} s for the whole workflow, model loading included")
    small = None if image else photos / "osprey-original.png"
    for line in figures(saved["upscaled.png"], photos / "osprey-small.png", small):
        print(f"  {line}")
    print(f"  server log: {(HOST / 'server.log').relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
