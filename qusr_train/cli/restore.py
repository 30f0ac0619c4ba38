"""`restore`: enlarge photos four times and restore them, with nano or with a file on SD 2.1-base."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError, RunError
from ..presets import DEFAULT_PRESET, PRESETS
from .parsers import Commands, device

if TYPE_CHECKING:
    from ..restore import RestoresPhotos

NANO = "nano"
DTYPES = ("float32", "float16", "bfloat16")
SD21_ONLY = {
    "base": None, "dtype": "float32", "strength": 1.0, "pixel": 1.0, "semantic": 1.0, "upscale": 4.0,
    "posterior": "mean", "color_fix": "wavelet", "tile": 0, "overlap": 32, "vae_tile": 0,
}  # fmt: skip
"""Flags that nano has no use for, with their defaults."""
NANO_ONLY = {"preset": DEFAULT_PRESET, "noise": "adaptive", "maps": None}
"""Flags that work with nano only, with their defaults."""


def add(commands: Commands) -> None:
    from ..model.noise import SPREADS

    parser = commands.add_parser("restore", help="enlarge photos four times and restore them")
    parser.add_argument("input", metavar="INPUT", help="an image, or a folder that is searched recursively")
    parser.add_argument("output", metavar="OUTPUT", help="a .png file for one image, else a folder")
    parser.add_argument(
        "--model", default=NANO, metavar="nano|FILE",
        help="the bundled model, a nano .safetensors file, or with --base a file of QUSR, PiSA-SR or OSEDiff",
    )  # fmt: skip
    parser.add_argument("--prompt", help="quality prompt for every image (default: measured on each; PiSA-SR: none)")
    parser.add_argument("--captions", metavar="FILE", help="a prompt for each image: .json, or .jsonl of `caption`")
    parser.add_argument("--seed", type=int, default=0, help="seed of the injected noise (default: 0)")
    parser.add_argument("--device", default="cpu", help="torch device, e.g. cuda (default: cpu)")
    nano = parser.add_argument_group("with nano")
    explained = "; ".join(f"{name}: {preset.text}" for name, preset in PRESETS.items())
    nano.add_argument("--preset", choices=list(PRESETS), default=DEFAULT_PRESET, help=explained)
    nano.add_argument(
        "--noise", choices=SPREADS, default="adaptive",
        help="adaptive: as the map says (default); uniform: everywhere the same, with the same power; none",
    )  # fmt: skip
    nano.add_argument(
        "--maps", metavar="DIR", help="write each picture's map as NAME.npy: float32, expected error in grey levels"
    )
    sd = parser.add_argument_group("with SD 2.1-base")
    sd.add_argument("--base", metavar="PATH", help="SD 2.1-base: a folder in diffusers form, or a single file")
    sd.add_argument("--dtype", choices=DTYPES, default="float32", help="(default: float32)")
    sd.add_argument("--strength", type=float, default=1.0, help="scale of the LoRA (default: 1, as trained)")
    sd.add_argument("--pixel", type=float, default=1.0, help="PiSA-SR's pixel-level strength (default: 1)")
    sd.add_argument("--semantic", type=float, default=1.0, help="PiSA-SR's semantic strength (default: 1)")
    sd.add_argument("--upscale", type=float, default=4.0, help="enlargement; 1: INPUT is enlarged already (default: 4)")
    sd.add_argument(
        "--posterior", choices=("mean", "sample"), default="mean",
        help="of the VAE: its mean, as in ComfyUI, or a sample, with all draws as the authors' code makes them",
    )  # fmt: skip
    sd.add_argument("--color_fix", choices=("wavelet", "adain", "none"), default="wavelet", help="(default: wavelet)")
    sd.add_argument("--tile", type=int, default=0, help="denoiser tiles in latent pixels, the authors' 96 (default: 0, "
                    "whole; tiles only when memory is short)")  # fmt: skip
    sd.add_argument("--overlap", type=int, default=32, help="of the denoiser's tiles (default: 32)")
    sd.add_argument("--vae_tile", type=int, default=0, help="exact VAE tiles in pixels (default: 0, likewise)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from tqdm.auto import tqdm

    from ..captions.files import read_captions
    from ..restore import restore_file
    from ..restore_sd21 import SD21Restorer

    target = Path(arguments.output)
    jobs = _jobs(Path(arguments.input), target)
    if arguments.captions and arguments.prompt is not None:
        raise InputError("give either --prompt or --captions, but got both", "captions")
    if arguments.prompt is not None and not arguments.prompt.isprintable():
        raise InputError("expected a text of one line, but it holds bytes or signs that are no text", "prompt")
    maps = _map_files(jobs, Path(arguments.input), target, arguments.maps)
    captions = read_captions(Path(arguments.captions), (one.stem for one, _ in jobs)) if arguments.captions else {}
    tiles, failed = 0, 0
    restorer = _restorer(arguments)
    started = time.monotonic()
    with tqdm(total=len(jobs), unit="image") as bar:

        def each_tile() -> None:
            nonlocal tiles
            tiles += 1
            bar.set_postfix_str(f"part {tiles}")

        if isinstance(restorer, SD21Restorer):
            restorer.each_tile = each_tile
        for one, other in jobs:
            tiles = 0
            try:
                prompt = captions.get(one.stem, arguments.prompt)
                restore_file(restorer, one, other, prompt, arguments.seed, maps.get(other))
            except (InputError, RunError) as error:  # one bad picture never stops a folder
                failed += 1
                named = str(error) if str(one) in str(error) else f"{one}: {error}"
                tqdm.write(f"error: {named}", file=sys.stderr)
            bar.update()
    done = len(jobs) - failed
    place = target if target.is_dir() else jobs[0][1]
    print(f"{done} images restored into {place} in {time.monotonic() - started:.1f} s, {failed} failed")
    return 1 if failed else 0


def _jobs(source: Path, target: Path) -> list[tuple[Path, Path]]:
    """Each input with its output. Raises InputError before anything is overwritten."""
    from ..images.find import IMAGE_SUFFIXES, find_images

    if not source.exists():
        raise InputError("no such file or folder", "INPUT", source)
    if source.is_dir():
        sources = find_images(source)
        targets = [(target / p.relative_to(source)).with_suffix(".png") for p in sources]
        clashes = {t for t in targets if targets.count(t) > 1}
        if clashes:
            raise InputError(
                f"several images would be written to {sorted(clashes)[0]}; rename one of them", "INPUT", source
            )
    else:
        sources = [source]
        one_file = target.suffix.lower() in IMAGE_SUFFIXES
        targets = [target.with_suffix(".png") if one_file else target / (source.stem + ".png")]
    inputs = {one.resolve() for one in sources}
    for other in targets:
        if other.resolve() in inputs:
            raise InputError("would overwrite an input; choose another place", "OUTPUT", other)
    if source.is_dir() and target.is_file():
        raise InputError("is a file, but INPUT is a folder; give a folder", "OUTPUT", target)
    if source.is_dir() and target.resolve().is_relative_to(source.resolve()):
        raise InputError("is inside INPUT, and the next run would restore its results again", "OUTPUT", target)
    return list(zip(sources, targets, strict=True))


def _map_files(jobs: list[tuple[Path, Path]], source: Path, target: Path, maps: str | None) -> dict[Path, Path]:
    """Each output's map, in the same folders below `maps`; none without it."""
    from ..images.map_file import SUFFIX

    if maps is None:
        return {}
    outputs = [other for _, other in jobs]
    root = target if source.is_dir() else outputs[0].parent
    return {other: (Path(maps) / other.relative_to(root)).with_suffix(SUFFIX) for other in outputs}


def _restorer(arguments: argparse.Namespace) -> RestoresPhotos:
    """The model that the flags ask for."""
    from ..checkpoints.format import stored_format
    from ..checkpoints.nano_file import BUNDLED, FORMAT, load_nano

    if not arguments.base and (arguments.model == NANO or stored_format(arguments.model) == FORMAT):
        from ..restore import Restorer

        changed = [name for name, default in SD21_ONLY.items() if getattr(arguments, name) != default]
        if changed:
            raise InputError("is for models on SD 2.1-base; give --base and its --model, or leave it", changed[0])
        checkpoint = load_nano(BUNDLED if arguments.model == NANO else arguments.model)
        if arguments.maps and checkpoint.map_calibration is None:
            raise InputError(
                f"the map of --model {arguments.model} has no unit, so it cannot be written in grey levels; measure "
                "its meaning with the command calibrate, or use a model that was trained with uem error",
                "maps",
            )
        preset = PRESETS[arguments.preset]
        residual = preset.residual_share(has_base=bool(checkpoint.lora))
        return Restorer(checkpoint, device(arguments.device), preset.detail, preset.noise, arguments.noise, residual)
    model = Path(arguments.model)
    if arguments.model == NANO or stored_format(model) == FORMAT:
        raise InputError(
            f"{arguments.model} is a nano model, which needs no SD 2.1-base; leave --base, or give a file of QUSR, "
            "PiSA-SR or OSEDiff as --model",
            "base",
        )
    if not arguments.base:
        from ..checkpoints.load import load_checkpoint

        load_checkpoint(model)  # a file that cannot be used is named as such first
        raise InputError(f"{model} needs SD 2.1-base; give its folder in diffusers form, or its single file", "base")
    changed = [name for name, default in NANO_ONLY.items() if getattr(arguments, name) != default]
    if changed:
        raise InputError(
            "is for nano models; with SD 2.1-base there are --strength, --pixel and --semantic", changed[0]
        )
    import torch

    from ..restore_sd21 import Tiles, load_sd21_restorer

    tiles = Tiles(arguments.tile, arguments.overlap, arguments.vae_tile)
    restorer = load_sd21_restorer(
        model, Path(arguments.base), device(arguments.device), getattr(torch, arguments.dtype),
        arguments.strength, arguments.pixel, arguments.semantic,
    )  # fmt: skip
    restorer.tiles, restorer.scale, restorer.posterior = tiles, arguments.upscale, arguments.posterior
    restorer.color_fix = arguments.color_fix
    return restorer
