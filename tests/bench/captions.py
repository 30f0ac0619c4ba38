"""Figures about captions: `python -m tests.bench.captions --captions FOLDER`.

How many of the four qualities survive fitting (over JSON files of name -> caption, if given), how many
captions a second the measured captioner makes, what a cache hit costs, and how well its numbers follow known damage.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from qusr_train.captions.cache import CaptionCache, caption_images
from qusr_train.captions.measured import MeasuredCaptioner
from qusr_train.images.read import read_image
from qusr_train.model.tokenizer import fit_prompt, prioritise_prompt, qualities_in

EXAMPLE = Path(__file__).resolve().parents[2] / "nodes" / "example_photo" / "osprey-original.png"


def survival(folder: Path) -> None:
    """Print a Markdown table."""
    texts = [text for path in sorted(folder.glob("*.json")) for text in json.loads(path.read_text("utf-8")).values()]
    long = [text for text in texts if fit_prompt(text).cut]
    said = sum(len(qualities_in(text)) for text in texts)
    print(f"{len(texts)} captions, {len(long)} longer than 75 tokens; they name {said} qualities of {4 * len(texts)}\n")
    print("| tokens read | fit | captions that lose a quality | qualities that survive |")
    print("|---|---|---|---|")
    for limit in (75, 50, 25):  # 75 is what CLIP reads; less imitates longer captions
        for name, fit in (("truncate", fit_prompt), ("prioritise", prioritise_prompt)):
            kept = [qualities_in(fit(text, limit).kept_text) for text in texts]
            losing = sum(len(k) < len(qualities_in(text)) for k, text in zip(kept, texts, strict=True))
            print(f"| {limit} | {name} | {losing} | {sum(map(len, kept))} of {said} |")


def speed(count: int) -> None:
    """Print captions per second and the cost of a hit, with crops of the example photo."""
    photo = read_image(EXAMPLE).rgb[0]
    side = 256
    generator = torch.Generator().manual_seed(0)
    crops = []
    for _ in range(count):
        y, x = (int(torch.randint(n - side, (), generator=generator)) for n in photo.shape[-2:])
        crops.append(photo[:, y : y + side, x : x + side].contiguous())
    captioner = MeasuredCaptioner()
    caption_images(captioner, crops[:2])
    with tempfile.TemporaryDirectory() as folder:
        cache = CaptionCache(Path(folder) / "captions")
        spent = []
        for _ in range(2):
            start = time.process_time()
            for crop in crops:
                caption_images(captioner, [crop], cache)
            spent.append((time.process_time() - start) / count)
    fresh, hit = spent
    print(f"\n{side} x {side}: {1 / fresh:.0f} captions per CPU second, a cache hit takes {hit * 1e3:.2f} ms")


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captions", type=Path, help="folder of JSON files: name -> caption")
    parser.add_argument("--count", type=int, default=50)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.captions:
        survival(arguments.captions)
    speed(arguments.count)


if __name__ == "__main__":
    main()
