"""Command line: `python -m qusr_train COMMAND`; --help lists the commands."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..captions.captioner import Captioner


def _restore(arguments: argparse.Namespace) -> int:
    from tqdm.auto import tqdm

    from ..checkpoints.nano_file import BUNDLED, load_nano
    from ..images.check import ImageError
    from ..images.find import IMAGE_SUFFIXES, find_images
    from ..restore import Restorer, restore_file

    source, target = Path(arguments.input), Path(arguments.output)
    if not source.exists():
        raise ValueError(f"INPUT {source}: no such file or folder")
    if source.is_dir():
        sources = find_images(source)
        targets = [(target / p.relative_to(source)).with_suffix(".png") for p in sources]
        clashes = {t for t in targets if targets.count(t) > 1}
        if clashes:
            raise ValueError(
                f"INPUT {source}: several images would be written to {sorted(clashes)[0]}; rename one of them"
            )
    else:
        sources = [source]
        if target.suffix.lower() in IMAGE_SUFFIXES:
            target = target.with_suffix(".png")
            targets = [target]
        else:
            targets = [target / (source.stem + ".png")]
    inputs = {one.resolve() for one in sources}
    for other in targets:
        if other.resolve() in inputs:
            raise ValueError(f"OUTPUT {other}: would overwrite an input; choose another place")
    if source.is_dir() and target.is_file():
        raise ValueError(f"OUTPUT {target}: is a file, but INPUT is a folder; give a folder")
    model = load_nano(BUNDLED if arguments.model == "nano" else arguments.model)
    restorer = Restorer(model, device=arguments.device)
    failed = 0
    started = time.monotonic()
    with tqdm(total=len(sources), unit="image") as bar:
        for one, other in zip(sources, targets, strict=True):
            try:
                restore_file(restorer, one, other, arguments.prompt, arguments.seed)
            except ImageError as error:
                failed += 1
                tqdm.write(f"error: {error}", file=sys.stderr)
            bar.update()
    done = len(sources) - failed
    print(f"{done} images restored into {target} in {time.monotonic() - started:.1f} s, {failed} failed")
    return 1 if failed else 0


def _evaluate(arguments: argparse.Namespace) -> int:
    from ..evaluation import report
    from ..evaluation.evaluate import evaluate_folders, write_json

    metrics = tuple(name.strip() for name in arguments.metrics.split(",") if name.strip())
    folders: dict[str, Path] = {}
    for given in arguments.pred:
        name, equals, folder = given.partition("=")
        path = Path(folder) if equals and not Path(given).is_dir() else Path(given)
        label = name if equals and not Path(given).is_dir() else path.name or str(path)
        if label in folders:
            raise ValueError(f"--pred: two methods are called {label!r}; write NAME=DIR to tell them apart")
        folders[label] = path
    truths = Path(arguments.gt)
    niqe = Path(arguments.niqe) if arguments.niqe else None
    options = {"device": arguments.device, "download": arguments.download, "niqe": niqe}
    reports = {name: evaluate_folders(folder, truths, metrics, **options) for name, folder in folders.items()}
    only = next(iter(reports.values()))
    if arguments.json:
        write_json(Path(arguments.json), only if len(reports) == 1 else {"methods": reports})
    if arguments.csv:
        report.write_csv(Path(arguments.csv), reports)
    if arguments.markdown:
        report.write_text(Path(arguments.markdown), report.markdown_table(reports))
    if arguments.html:
        report.write_text(Path(arguments.html), report.html_report(reports, folders, truths))
    if len(reports) == 1:
        print(f"{len(only['per_image'])} images: " + ", ".join(f"{m} {v:.4f}" for m, v in only["mean"].items()))
    else:
        print(report.markdown_table(reports), end="")
    return 0


def _train(arguments: argparse.Namespace) -> int:
    import os
    import signal
    import threading

    from ..training.config import from_arguments
    from ..training.loop import TrainingStopped, train

    asked = threading.Event()
    previous = {number: signal.signal(number, lambda *_: asked.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        path = train(from_arguments(arguments), should_stop=asked.is_set)
    except TrainingStopped as error:
        print(error, file=sys.stderr)
        return 130
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if os.environ.get("RANK", "0") == "0":  # one line, not one for each process
        print(path)
    return 0


def _ablation(arguments: argparse.Namespace) -> int:
    from ..evaluation.report import markdown_table
    from ..training.ablation import run_ablation
    from ..training.config import from_arguments

    print(markdown_table(run_ablation(from_arguments(arguments), Path(arguments.eval))), end="")
    return 0


def _degrade(arguments: argparse.Namespace) -> int:
    from ..data.pregenerate import pregenerate

    written = pregenerate(
        Path(arguments.photos), Path(arguments.out), arguments.count, patch=arguments.patch, seed=arguments.seed,
        kind=arguments.degradation, sharpen_targets=arguments.sharpen_targets,
        factors=tuple(arguments.photo_factors), workers=arguments.workers,
    )  # fmt: skip
    print(f"{written} pairs written into {arguments.out}, {arguments.count - written} were there")
    return 0


def _photos(arguments: argparse.Namespace) -> int:
    from ..data.debian_photos import fetch

    print(f"{fetch(Path(arguments.output))} photos in {arguments.output}")
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    from ..checkpoints.load import load_checkpoint
    from ..checkpoints.qusr_file import save_qusr

    source, target = Path(arguments.input), Path(arguments.output)
    if target.suffix != ".safetensors":
        raise ValueError(f"OUTPUT {target}: give a name that ends in .safetensors")
    if target.exists() and not arguments.overwrite:
        raise ValueError(f"OUTPUT {target}: exists already; choose another name or add --overwrite")
    checkpoint = load_checkpoint(source)
    save_qusr(target, checkpoint)
    print(f"{target}: {checkpoint.method}, {len(checkpoint.lora)} LoRA layers")
    return 0


def _download(arguments: argparse.Namespace) -> int:
    from tqdm.auto import tqdm

    from ..download.models import choose, download_model

    bars: dict[str, tqdm] = {}

    def progress(what: str, done: int, total: int | None) -> None:
        if what not in bars:
            bars[what] = tqdm(desc=what, total=total, initial=done, unit="B", unit_scale=True)
        bar = bars[what]
        if done < bar.n:  # the server's file changed, and it starts again
            bar.reset(total)
        bar.update(done - bar.n)

    try:
        outcomes = download_model(choose(arguments.name), [Path(arguments.folder)], progress)
    finally:
        for bar in bars.values():
            bar.close()
    for outcome in outcomes:
        print(outcome)
    return 0


def _scale(arguments: argparse.Namespace) -> int:
    from ..checkpoints.nano_file import load_nano, save_nano, scale_residual

    save_nano(Path(arguments.output), scale_residual(load_nano(arguments.input), arguments.residual))
    print(arguments.output)
    return 0


def _caption(arguments: argparse.Namespace) -> int:
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
        raise ValueError(f"--model: is needed for --captioner {arguments.captioner}: {what}")
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
    opener = KeptQwen(folder, torch.device(name))
    return QwenCaptioner(folder, opener, temperature=arguments.temperature, batch=arguments.batch, **words)


def _add_caption(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
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
    caption.add_argument("--workers", type=int, default=4, help="server: images asked about at once, each (default: 4)")
    caption.add_argument("--timeout", type=float, default=120.0, help="server: seconds for an answer (default: 120)")
    caption.add_argument("--temperature", type=float, default=0.0, help="qwen: 0 always gives the likeliest word")
    caption.add_argument("--batch", type=int, default=BATCH, help=f"qwen: images at once (default: {BATCH})")
    caption.add_argument("--dtype", choices=DTYPES, default="auto", help="qwen")
    caption.add_argument("--quantization", choices=QUANTIZATIONS, default="none", help="qwen: with bitsandbytes")
    caption.add_argument("--attention", choices=ATTENTIONS, default="auto", help="qwen")
    caption.add_argument("--device", help="qwen: torch device (default: cuda if there is one)")
    caption.add_argument("--cache", metavar="FILE", help="captions known from earlier runs, shared by all processes")
    caption.set_defaults(run=_caption)


def build_parser() -> argparse.ArgumentParser:
    """All commands and flags."""
    from ..download.catalog import MODELS
    from ..training.config import add_arguments

    parser = argparse.ArgumentParser(prog="python -m qusr_train", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    restore = commands.add_parser("restore", help="enlarge photos four times and restore them")
    restore.add_argument("input", metavar="INPUT", help="an image, or a folder that is searched recursively")
    restore.add_argument("output", metavar="OUTPUT", help="a .png file for one image, else a folder")
    restore.add_argument("--model", default="nano", metavar="nano|FILE", help="bundled model or a .safetensors file")
    restore.add_argument("--prompt", help="quality prompt for every image (default: measured on each)")
    restore.add_argument("--seed", type=int, default=0, help="seed of the injected noise (default: 0)")
    restore.add_argument("--device", default="cpu", help="torch device, e.g. cuda (default: cpu)")
    restore.set_defaults(run=_restore)

    evaluate = commands.add_parser("evaluate", help="the paper's metrics of folders of predictions")
    evaluate.add_argument(
        "--pred", required=True, nargs="+", metavar="[NAME=]DIR", help="folder of predictions; several make a table"
    )
    evaluate.add_argument("--gt", required=True, metavar="DIR", help="folder of ground truth with the same names")
    evaluate.add_argument(
        "--metrics",
        default="psnr,ssim",
        help="comma separated (default: psnr,ssim); also lpips, dists, fid, niqe, clipiqa, musiq, maniqa, by pyiqa",
    )
    evaluate.add_argument("--json", metavar="FILE", help="write the full report to this file")
    evaluate.add_argument("--csv", metavar="FILE", help="write every value as CSV")
    evaluate.add_argument("--markdown", metavar="FILE", help="write the table as Markdown")
    evaluate.add_argument("--html", metavar="FILE", help="write a page with the table, worst and best crops")
    evaluate.add_argument("--device", default="cpu", help="torch device of pyiqa's metrics (default: cpu)")
    evaluate.add_argument("--download", action="store_true", help="let pyiqa download weights that are absent")
    evaluate.add_argument("--niqe", metavar="FILE", help="NIQE's parameters: pyiqa's .mat or basicsr's .npz")
    evaluate.set_defaults(run=_evaluate)

    train = commands.add_parser("train", help="train qusr-nano, or QUSR on SD 2.1-base")
    add_arguments(train)
    train.set_defaults(run=_train)

    ablation = commands.add_parser("ablation", help="train and compare nano without prior, without noise, with both")
    ablation.add_argument("--eval", required=True, metavar="DIR", help="folder with lr and hr to compare on")
    add_arguments(ablation)
    ablation.set_defaults(run=_ablation)

    degrade = commands.add_parser("degrade", help="make training pairs from photos once; goes on where it stopped")
    degrade.add_argument("--photos", required=True, metavar="DIR", help="folder of sharp photos")
    degrade.add_argument("--out", required=True, metavar="DIR", help="folder for lr and hr; `train --pairs` reads it")
    degrade.add_argument("--count", required=True, type=int, help="number of pairs")
    degrade.add_argument("--patch", type=int, default=512, help="side of the targets in pixels (default: 512)")
    degrade.add_argument("--seed", type=int, default=1, help="(default: 1)")
    degrade.add_argument("--degradation", choices=("second_order", "camera"), default="second_order")
    degrade.add_argument("--sharpen_targets", action="store_true", help="unsharp-mask the targets (second_order)")
    degrade.add_argument("--photo_factors", type=float, nargs="+", default=[1.0], help="sizes to use photos at")
    degrade.add_argument("--workers", type=int, default=0, help="processes (default: 0, this one)")
    degrade.set_defaults(run=_degrade)

    photos = commands.add_parser("photos", help="fetch the training photos of qusr-nano (needs apt on Debian)")
    photos.add_argument("output", metavar="OUTPUT", help="folder for the photos")
    photos.set_defaults(run=_photos)

    _add_caption(commands)

    convert = commands.add_parser("convert", help="turn a .pkl of QUSR, PiSA-SR or OSEDiff into a .safetensors file")
    convert.add_argument("input", metavar="INPUT", help="the .pkl file; no code in it is run")
    convert.add_argument("output", metavar="OUTPUT", help="the .safetensors file to write")
    convert.add_argument("--overwrite", action="store_true", help="replace OUTPUT when it exists")
    convert.set_defaults(run=_convert)

    scale = commands.add_parser("scale", help="weaken the residual of a nano model for photos it was not trained on")
    scale.add_argument("input", metavar="INPUT", help="a nano .safetensors file")
    scale.add_argument("output", metavar="OUTPUT", help="the file to write")
    scale.add_argument("--residual", type=float, required=True, help="factor, e.g. 0.7")
    scale.set_defaults(run=_scale)

    download = commands.add_parser("download", help="fetch the weights of a public model")
    models = "; ".join(f"{m.name}: {m.about} ({m.download}, {m.licence})" for m in MODELS.values())
    download.add_argument("name", metavar="NAME", choices=list(MODELS), help=models)
    download.add_argument("--folder", default=".", metavar="DIR", help="where to put it (default: this folder)")
    download.set_defaults(run=_download)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run a command; user errors become one line on stderr and exit code 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments = build_parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
