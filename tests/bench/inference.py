"""Time and memory of a whole restoration at full SD 2.1 shapes: `python -m tests.bench.inference`.

Random weights, the same in both paths, since real ones cannot be had everywhere; time and memory do
not depend on their values. `plain` is a straightforward diffusers pipeline of the same steps, whole
image at once; `ours` is the chain of this extension's nodes inside ComfyUI. Each case runs in a
process of its own, so that its peak memory is its own. CPU seconds count this process's work only: on
a machine with other work they are the ones to compare.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.bench.meters import MemoryWatch, Stopwatch
from tests.bench.native import golden_models, import_pack, native_models
from tests.bench.plain import PlainPipeline
from tests.bench.shapes import PROMPT, SCALE, photo

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Options:
    """What only our path knows."""

    reserve_vram: float | None = None
    """ComfyUI's --reserve-vram in GB: what is left free, so that weights are moved off the device."""
    golden: bool = False
    """The golden model instead of full shapes."""


def plain(
    size: int, device: torch.device, dtype: torch.dtype, options: Options
) -> tuple[Callable[[Stopwatch], Tensor], str]:
    """diffusers, see `PlainPipeline`."""
    from qusr_train.images.color import fix_color

    pipeline = PlainPipeline(device, dtype)
    image = photo(size).movedim(-1, 1)

    def run(watch: Stopwatch) -> Tensor:
        out = pipeline(image, watch)
        with watch.stage("colour"):
            fixed = fix_color(out, image, "adain")
        return fixed.clamp(0, 1)

    return run, "diffusers"


def ours(
    size: int, device: torch.device, dtype: torch.dtype, options: Options
) -> tuple[Callable[[Stopwatch], Tensor], str]:
    """The nodes' own functions inside ComfyUI."""
    pack = import_pack(device.type == "cpu", options.reserve_vram)
    import comfy.cli_args

    comfy.cli_args.args.fp32_vae = dtype == torch.float32
    comfy.cli_args.args.fp16_vae = dtype == torch.float16
    nodes = pack.nodes
    model, clip, vae = golden_models() if options.golden else native_models(device, dtype)
    noise_parameters = pack.qusr_train.model.noise.NoiseParameters()
    patched = nodes.native.sampling.make_one_step(model.clone(), "reference")
    nodes.native.cpu.use_cpu_kernels(patched)
    torch.manual_seed(0)
    import comfy.model_patcher

    uem = comfy.model_patcher.ModelPatcher(
        pack.qusr_train.model.uncertainty.UEM(64).eval(), load_device=device, offload_device=torch.device("cpu")
    )
    loaded = nodes.native.sockets.LoadedUEM(uem, noise_parameters, SCALE)
    image = photo(size)
    rgb = image.movedim(-1, 1)

    def run(watch: Stopwatch) -> Tensor:
        with watch.stage("text"):
            conditioning = nodes.prompt.encode_prompts(clip, [PROMPT]).conditioning
        with watch.stage("uncertainty"):
            uncertainty = nodes.uncertainty.estimate(rgb, loaded)
        with watch.stage("encode"):
            latent = nodes.vae.encode_latent(vae, image)
        with watch.stage("encode map"):
            noise = nodes.noise.adaptive_noise(vae, uncertainty, 0, noise_parameters)
        tiling = nodes.upscale.denoiser_tiling(patched, latent["samples"])
        with watch.stage("denoise"):
            restored = nodes.denoise.one_step(patched, conditioning, latent, noise, tiling)
        with watch.stage("decode"):
            out = nodes.vae.decode_latent(vae, restored)
        with watch.stage("colour"):
            fixed = pack.qusr_train.images.color.fix_color(out.movedim(-1, 1), rgb, "adain")
        return fixed.clamp(0, 1)

    return run, "ComfyUI nodes"


def measure(
    path: str, size: int, device: torch.device, dtype: torch.dtype, repeats: int, output: str, options: Options
) -> dict[str, Any]:
    """Run one case in this process."""
    run, name = {"plain": plain, "ours": ours}[path](size, device, dtype, options)
    cuda = device.type == "cuda"
    watches = []
    with torch.inference_mode(), MemoryWatch() as memory:
        if cuda:  # kernels are chosen on the first run
            run(Stopwatch(device))
            torch.cuda.reset_peak_memory_stats()
        for _ in range(repeats):
            watches.append(Stopwatch(device))
            spent = time.process_time()
            result = run(watches[-1])
            spent = time.process_time() - spent
    torch.save(result, output)
    best = min(watches, key=lambda watch: sum(watch.seconds.values()))
    peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else memory.peak
    return {
        "path": name, "size": size, "seconds": {k: round(v, 2) for k, v in best.seconds.items()},
        "total": round(sum(best.seconds.values()), 2), "cpu": round(spent, 1), "peak_gib": round(peak, 2),
        "above_models_gib": None if cuda else round(memory.peak - memory.start, 2),
    }  # fmt: skip


def main() -> None:
    """Compare both paths and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[512])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"])
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--paths", nargs="+", default=["plain", "ours"], choices=["plain", "ours"])
    parser.add_argument("--reserve_vram", type=float, metavar="GB", help="ours: ComfyUI's --reserve-vram")
    parser.add_argument("--golden", action="store_true", help="ours: the golden model instead of full shapes")
    parser.add_argument("--one", nargs=2, metavar=("PATH", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    dtype_name = arguments.dtype or ("float16" if device.type == "cuda" else "float32")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.one:
        path, output = arguments.one
        dtype = getattr(torch, dtype_name)
        options = Options(arguments.reserve_vram, arguments.golden)
        print(json.dumps(measure(path, arguments.sizes[0], device, dtype, arguments.repeats, output, options)))
        return
    machine = (
        torch.cuda.get_device_name() if device.type == "cuda" else f"CPU {platform.processor() or platform.machine()}"
    )
    print(f"{machine}, {dtype_name}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| size | path | total s | CPU s | stages s | peak GiB | peak above the models GiB |")
    print("|---|---|---|---|---|---|---|")
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for size in arguments.sizes:
            rows, pictures = [], []
            for path in arguments.paths:
                picture = str(Path(folder) / f"{path}.pt")
                flags = ["--sizes", str(size), "--device", arguments.device, "--dtype", dtype_name]
                flags += ["--repeats", str(arguments.repeats), "--one", path, picture]
                flags += ["--threads", str(torch.get_num_threads())]
                command = [sys.executable, "-m", "tests.bench.inference", *flags]
                done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
                if done.returncode:
                    print(f"| {size} | {path} | failed: {done.stderr.strip().splitlines()[-1][:100]} | | | | |")
                    continue
                row = json.loads(done.stdout.strip().splitlines()[-1])
                rows.append(row)
                pictures.append(torch.load(picture))
                stages = ", ".join(f"{name} {value}" for name, value in row["seconds"].items())
                memory = f"{row['peak_gib']} | {row['above_models_gib'] if row['above_models_gib'] is not None else ''}"
                print(f"| {size} | {row['path']} | {row['total']} | {row['cpu']} | {stages} | {memory} |", flush=True)
            if len(rows) == 2:
                difference = (pictures[0] - pictures[1]).abs().max().item() * 255
                print(
                    f"\n{size}: {rows[0]['total'] / rows[1]['total']:.2f} times as fast "
                    f"(CPU time: {rows[0]['cpu'] / rows[1]['cpu']:.2f}), "
                    f"{rows[1]['peak_gib'] / rows[0]['peak_gib']:.2f} of the peak memory, "
                    f"largest difference {difference:.3f} grey levels\n"
                )


if __name__ == "__main__":
    main()
