"""`caption`: describe the quality of every image of a folder."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from .parsers import Commands, device

if TYPE_CHECKING:
    from ..captions.captioner import Captioner


def add(commands: Commands) -> None:
    from ..captions.instruction import INSTRUCTION, MAX_WORDS
    from ..captions.qwen import ATTENTIONS, BATCH, DTYPES, QUANTIZATIONS

    caption = commands.add_parser(
        "caption",
        help="describe the quality of every image of a folder, for training",
        epilog="Several processes: accelerate launch --num_processes N -m qusr_train caption ... ; on several machines "
        "FOLDER and --out must be on a disk that all share.",
    )
    caption.add_argument("folder", metavar="FOLDER", help="searched recursively")
    caption.add_argument("--captioner", choices=("measured", "qwen", "server"), default="measured")
    caption.add_argument(
        "--out", required=True, metavar="FILE.jsonl", help="one line for each image; run again to go on"
    )
    caption.add_argument("--model", help="qwen: the model's folder; server: the name of its model")
    caption.add_argument(
        "--server", action="append", metavar="URL", help="server: address such as http://127.0.0.1:8000/v1; repeatable"
    )
    caption.add_argument("--instruction", default=INSTRUCTION, help="what is asked (default: the paper's instruction)")
    caption.add_argument("--max_words", type=int, default=MAX_WORDS, help=f"0: no limit (default: {MAX_WORDS})")
    caption.add_argument("--seed", type=int, default=0, help="of the model's chance (default: 0)")
    caption.add_argument(
        "--workers", type=int, default=4, help="server: images asked about at once per server (default: 4)"
    )
    caption.add_argument("--timeout", type=float, default=120.0, help="server: seconds for an answer (default: 120)")
    caption.add_argument("--temperature", type=float, default=0.0, help="qwen: 0 always gives the likeliest word")
    caption.add_argument("--batch", type=int, default=BATCH, help=f"qwen: images at once (default: {BATCH})")
    caption.add_argument("--dtype", choices=DTYPES, default="auto", help="qwen")
    caption.add_argument("--quantization", choices=QUANTIZATIONS, default="none", help="qwen: with bitsandbytes")
    caption.add_argument("--attention", choices=ATTENTIONS, default="auto", help="qwen")
    caption.add_argument("--device", help="qwen: torch device (default: cuda if there is one)")
    caption.add_argument("--cache", metavar="FILE", help="captions known from earlier runs, shared by all processes")
    caption.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from tqdm.auto import tqdm

    from ..captions.cache import CaptionCache
    from ..captions.folder import Share, caption_folder

    share = Share.of_launch(on_cpu=arguments.captioner != "qwen" or arguments.device == "cpu")
    captioner = _captioner(arguments, share.rank)
    bar: tqdm | None = None

    def report(done: int, total: int, rate: float) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(total=total, unit="image", desc=f"process {share.rank}" if share.count > 1 else None)
        bar.update(done - bar.n)

    cache = CaptionCache(Path(arguments.cache)) if arguments.cache else None
    chunk = max(arguments.batch, 2 * arguments.workers * len(arguments.server or [""]), 4)
    started = time.monotonic()
    try:
        outcome = caption_folder(Path(arguments.folder), captioner, Path(arguments.out), share, cache, chunk, report)
    finally:
        if bar is not None:
            bar.close()
    seconds = time.monotonic() - started
    print(
        f"{outcome.captioned} images captioned ({outcome.captioned / max(seconds, 1e-9):.1f} per second), "
        f"{outcome.known} known already, {outcome.failed} failed"
        + (f"; process {share.rank} of {share.count}" if share.count > 1 else f"; {arguments.out}")
    )
    return 1 if outcome.failed else 0


def _captioner(arguments: argparse.Namespace, rank: int) -> Captioner:
    """The captioner that the flags of `caption` ask for."""
    from ..captions.measured import MeasuredCaptioner

    if arguments.captioner == "measured":
        return MeasuredCaptioner()
    if not arguments.model:
        what = "the folder of the model" if arguments.captioner == "qwen" else "the name the server knows its model by"
        raise InputError(f"is needed for --captioner {arguments.captioner}: {what}", field="model")
    words = {"instruction": arguments.instruction, "max_words": arguments.max_words, "seed": arguments.seed}
    if arguments.captioner == "server":
        from ..captions.server import ServerCaptioner, parse_addresses

        return ServerCaptioner(
            parse_addresses(arguments.server or []), arguments.model, workers=arguments.workers,
            timeout=arguments.timeout, **words,
        )  # fmt: skip
    import torch

    from ..captions.qwen import KeptQwen, QwenCaptioner, QwenFolder

    folder = QwenFolder(Path(arguments.model), arguments.dtype, arguments.quantization, arguments.attention)
    folder.config()  # a wrong folder is told before any image is read
    name = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda":  # one GPU for each process of a launch
        name = f"cuda:{int(os.environ.get('LOCAL_RANK', '0'))}"
    opener = KeptQwen(folder, device(name))
    return QwenCaptioner(folder, opener, temperature=arguments.temperature, batch=arguments.batch, **words)
