"""Everything that only a GPU can tell, in one command: `make gpu` (`python -m tests.bench.gpu`).

Writes tests/bench/gpu/DEVICE.md. On a GPU with 24 GB or more it takes full SD 2.1 shapes with random weights; on a CPU
the same parts run on the golden model, so that the command stays alive. A part that fails is in the table with its
reason, and the command then ends with exit code 1.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file
from torch import Tensor

from qusr_train.data.samples import Batch
from qusr_train.images.read import read_image
from qusr_train.model.noise import NoiseParameters
from qusr_train.model.stable_diffusion import StableDiffusion, load_stable_diffusion
from qusr_train.model.uncertainty import UEM
from qusr_train.restore_sd21 import SD21Restorer, Tiles, load_sd21_restorer
from qusr_train.training.config import TrainConfig
from qusr_train.training.optimizer import make_optimizer
from qusr_train.training.perceptual import PerceptualLoss
from qusr_train.training.sd21 import SD21Task
from qusr_train.training.step import StepNoise
from tests.bench.meters import Stopwatch
from tests.bench.plain import PlainPipeline
from tests.bench.shapes import random_module
from tests.bench.training import PlainTask
from tests.support.diffusers_model import GOLDEN, golden_folder

ROOT = Path(__file__).resolve().parents[2]
OUT = Path(__file__).parent / "gpu"
DTYPES = {"float32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
ALLOWED = {"float32": 1e-4, "fp16": 2e-2, "bf16": 1e-1}  # of the image in [0, 1]


@dataclass(frozen=True)
class Bench:
    """Where everything runs."""

    device: torch.device
    golden: Path
    """The golden model as a diffusers folder."""

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def base(self, dtype: torch.dtype) -> StableDiffusion:
        """Full shapes with random weights on a GPU, the golden model on a CPU."""
        if not self.cuda:
            base = load_stable_diffusion(self.golden)
        else:
            parts = [random_module(kind, seed) for seed, kind in enumerate(("unet", "vae", "text"))]
            base = StableDiffusion(*parts, load_stable_diffusion(self.golden).alphas_cumprod)
        base.to(self.device, dtype)
        return base

    def timed(self, run: Callable[[], Tensor]) -> tuple[Tensor, float, float]:
        """Result, seconds of the second call, and peak GiB on the device (0 on a CPU)."""
        run()
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        result = run()
        if self.cuda:
            torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() / 2**30 if self.cuda else 0.0
        return result, time.perf_counter() - start, peak


def parity(bench: Bench) -> Iterator[str]:
    """The reference's picture on this device."""
    yield "| precision | largest difference of the image | allowed |\n|---|---|---|"
    run = load_file(GOLDEN / "runs" / "qusr_128.safetensors")
    image = read_image(GOLDEN / "runs" / "qusr_128_lq.png").rgb
    wanted = (run["decoded_raw"].clamp(-1, 1) + 1) / 2
    from safetensors import safe_open

    with safe_open(GOLDEN / "runs" / "qusr_128.safetensors", "pt") as file:
        prompt = file.metadata()["prompt"]
    for name, dtype in DTYPES.items():
        restorer = load_sd21_restorer(GOLDEN / "checkpoints" / "qusr.pkl", bench.golden, bench.device, dtype)
        as_authors = replace(restorer, scale=1.0, posterior="sample", color_fix="none")
        difference = (as_authors(image, prompt, 42).image - wanted).abs().max().item()
        yield f"| {name} | {difference:.1e} | {ALLOWED[name]:.0e} |"
        if difference > ALLOWED[name]:
            raise RuntimeError(f"parity in {name}: {difference:.1e} is more than {ALLOWED[name]:.0e}")


def inference(bench: Bench) -> Iterator[str]:
    """The chain against a plain one, whole pictures and exact tiles."""
    yield "| size | path | seconds | peak GiB |\n|---|---|---|---|"
    dtype = torch.float16 if bench.cuda else torch.float32
    base, uem = bench.base(dtype), UEM(64 if bench.cuda else 4).to(bench.device).eval().requires_grad_(False)
    restorer = SD21Restorer(base, uem, NoiseParameters(), scale=1.0, color_fix="none")
    plain = PlainPipeline(bench.device, dtype, None if bench.cuda else bench.golden)
    for size in (512, 1024, 2048, 4096) if bench.cuda else (64, 128):
        image = torch.rand((1, 3, size, size), generator=torch.Generator().manual_seed(0))
        tiles = Tiles(latent=96 if bench.cuda else 8, overlap=32 if bench.cuda else 4, vae=512 if bench.cuda else 64)
        cases: dict[str, Callable[[], Tensor]] = {
            "plain diffusers": lambda image=image: plain(image, Stopwatch(bench.device)),  # type: ignore[misc]
            "ours": lambda image=image: restorer(image, "a photo").image,  # type: ignore[misc]
            "ours, in tiles": lambda image=image, t=tiles: replace(restorer, tiles=t)(image, "a photo").image,  # type: ignore[misc]
        }
        for name, run in cases.items():
            try:
                _, seconds, peak = bench.timed(run)
                yield f"| {size} | {name} | {seconds:.2f} | {peak:.2f} |"
            except RuntimeError as error:  # plain is allowed not to fit
                if name != "plain diffusers" or "out of memory" not in str(error):
                    raise
                yield f"| {size} | {name} | out of memory | |"


def training(bench: Bench) -> Iterator[str]:
    """Steps of the recipe `sd21`: plain (float32, a second UNet), ours, with cached latents, compiled."""
    yield "| loop | precision | batch | patch | images per second | peak GiB |\n|---|---|---|---|---|---|"
    batch, patch = (4, 512) if bench.cuda else (1, 64)
    halves = ("bf16", "fp16") if bench.cuda else ("bf16",)
    for loop, precision in (
        ("plain", "no"), *(("ours", half) for half in halves), ("ours", "no"), ("cached", halves[-1]),
        ("compiled", halves[-1]),
    ):  # fmt: skip
        try:
            loss, seconds, peak = bench.timed(_training_step(bench, loop, precision, batch, patch))
        except torch.OutOfMemoryError:
            if precision != "no":  # float32 is allowed not to fit
                raise
            yield f"| {loop} | {precision} | {batch} | {patch} | out of memory | |"
            continue
        if not torch.isfinite(loss):
            raise RuntimeError(f"training, {loop} in {precision}: the loss is {loss.item()}")
        yield f"| {loop} | {precision} | {batch} | {patch} | {batch / seconds:.2f} | {peak:.2f} |"


def _training_step(bench: Bench, loop: str, precision: str, batch: int, patch: int) -> Callable[[], Tensor]:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    accelerator = Accelerator(mixed_precision=precision, cpu=not bench.cuda)
    config = TrainConfig.from_mapping({
        "stage": "sd21", "init": "random", "photos": "none", "out": "none", "precision": precision, "patch": patch,
        "batch_size": batch,
    })  # fmt: skip
    kind = PlainTask if loop == "plain" else SD21Task
    task = kind(config, bench.base(torch.float32), PerceptualLoss(None))
    task.prepare(bench.device)
    if loop == "compiled":  # on a CPU only traced: making its kernels takes minutes
        task.compile() if bench.cuda else task.compile(backend="eager")
    model, optimizer = accelerator.prepare(task.model, make_optimizer(task.model, config))
    x = torch.rand((batch, 3, patch, patch), device=bench.device) * 2 - 1
    moments = None
    if loop == "cached":
        with torch.no_grad():
            moments = torch.stack(task.base.moments(x), dim=1)
    data = Batch(x, x, ["a photo"] * batch, moments)

    def step() -> Tensor:
        noise = StepNoise(1, 0, 0, batch, batch)
        result = task.step(model, data, noise, accelerator.autocast)
        accelerator.backward(result.loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return result.loss.detach()

    return step


def offloading(bench: Bench) -> Iterator[str]:
    """The nodes inside ComfyUI, with all of the device's memory and with 3 GiB of it (`--reserve-vram`)."""
    yield "| size | --reserve-vram | seconds | peak GiB |\n|---|---|---|---|"
    total = torch.cuda.get_device_properties(bench.device).total_memory / 2**30 if bench.cuda else 4.0
    size = 1024 if bench.cuda else 64
    for reserved in (None, f"{max(1.0, total - 3):.1f}"):
        command = [sys.executable, "-m", "tests.bench.inference", "--sizes", str(size)]
        command += ["--device", bench.device.type, "--one", "ours", str(bench.golden.parent / "picture.pt")]
        command += ["--reserve_vram", reserved] if reserved else []
        command += [] if bench.cuda else ["--golden"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"--reserve-vram {reserved or 0}: {done.stderr.strip().splitlines()[-1][:200]}")
        row = json.loads(done.stdout.strip().splitlines()[-1])
        yield f"| {size} | {reserved or 'none'} | {row['total']} | {row['peak_gib']} |"


PARTS = (parity, inference, training, offloading)


def main() -> int:
    """Run every part and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    shapes = "full SD 2.1 shapes, random weights" if device.type == "cuda" else "the golden model, to keep it alive"
    lines, failed = [f"# {name}", "", f"`make gpu`, torch {torch.__version__}; {shapes}.", ""], 0
    with TemporaryDirectory() as folder:
        bench = Bench(device, golden_folder(Path(folder) / "golden"))
        for part in PARTS:
            lines += [f"## {part.__name__.capitalize()}", ""]
            try:
                lines += list(part(bench))
            except Exception as error:
                failed += 1
                lines.append(f"\n**Failed**: {type(error).__name__}: {str(error).splitlines()[0]}")
            lines.append("")
    page = arguments.out / f"{re.sub(r'[^A-Za-z0-9]+', '-', name)}.md"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
