"""Time and memory of a whole restoration at full SD 2.1 shapes: `python -m tests.bench.inference`.

Random weights, the same in both paths, since real ones cannot be had everywhere; time and memory do
not depend on their values. `plain` is a straightforward diffusers pipeline of the same steps, whole
image at once; `ours` is the chain of this extension's nodes inside ComfyUI. Each case runs in a
process of its own, so that its peak memory is its own. CPU seconds count this process's work only: on
a machine with other work they are the ones to compare.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
SCALE = 0.18215
UNET = {
    "sample_size": 64, "in_channels": 4, "out_channels": 4, "block_out_channels": (320, 640, 1280, 1280),
    "attention_head_dim": (5, 10, 20, 20), "cross_attention_dim": 1024, "use_linear_projection": True,
}  # fmt: skip
VAE = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
TEXT = {
    "vocab_size": 49408, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23,
    "num_attention_heads": 16, "hidden_act": "gelu", "projection_dim": 512,
}  # fmt: skip
PROMPT = "The image has fair clarity, slightly soft. There is slight noise and no compression artifacts."


def weights(shapes: dict[str, torch.Size], seed: int) -> Iterator[tuple[str, Tensor]]:
    """Random weights that keep activations in range: the same for the same names and seed."""
    for index, (name, shape) in enumerate(sorted(shapes.items())):
        generator = torch.Generator().manual_seed(seed * 100_003 + index)
        if len(shape) == 1:
            value = torch.ones(shape) if "norm" in name and name.endswith("weight") else torch.zeros(shape)
        else:
            fan_in = shape[1:].numel()
            value = (torch.rand(shape, generator=generator) * 2 - 1) * (1.5 / fan_in) ** 0.5
        yield name, value


def skeleton(kind: str) -> Any:
    """The diffusers (or transformers) module without memory."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        if kind == "unet":
            return UNet2DConditionModel(**UNET)
        if kind == "vae":
            return AutoencoderKL(**VAE)
        return CLIPTextModel(CLIPTextConfig(**TEXT))


def parameter_shapes(module: Any) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in module.state_dict().items() if "position_ids" not in name}


class MemoryWatch:
    """Largest resident memory of this process while it runs, GiB."""

    def __init__(self) -> None:
        import psutil

        self.process = psutil.Process()
        self.start = self.peak = self.now()
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def now(self) -> float:
        return self.process.memory_info().rss / 2**30

    def _watch(self) -> None:
        while not self.stopped.wait(0.01):
            self.peak = max(self.peak, self.now())

    def __enter__(self) -> MemoryWatch:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.thread.join()


class Stopwatch:
    """Seconds of each stage, with the device in step."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, {}  # type: ignore[var-annotated]

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._wait()
        start = time.perf_counter()
        yield
        self._wait()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def photo(size: int) -> Tensor:
    """A smooth picture with some texture, (1, size, size, 3) in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, max(2, size // 32), max(2, size // 32), generator=generator)
    fine = torch.rand(1, 3, size, size, generator=generator) * 0.1
    image = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic") * 0.8 + fine
    return image.clamp(0, 1).movedim(1, -1)


def plain(size: int, device: torch.device, dtype: torch.dtype) -> tuple[Callable[[Stopwatch], Tensor], str]:
    """diffusers: everything whole, mean of the posterior, `reference` variant."""
    from qusr_train.images.color import fix_color
    from qusr_train.model.noise import NoiseParameters, injected_noise, noise_sigma, seeded_noise
    from qusr_train.model.tokenizer import encode_tokens
    from qusr_train.model.uncertainty import UEM

    models = {}
    for seed, kind in enumerate(("unet", "vae", "text")):
        module = skeleton(kind).to_empty(device="cpu")
        module.load_state_dict(dict(weights(parameter_shapes(module), seed)), strict=False)
        for name, buffer in module.named_buffers():
            if "position_ids" in name:
                buffer.copy_(torch.arange(buffer.shape[-1])[None])
        models[kind] = module.to(device, dtype).eval()
    torch.manual_seed(0)
    uem = UEM(64).to(device, dtype).eval()
    image = photo(size).movedim(-1, 1)

    def run(watch: Stopwatch) -> Tensor:
        x = (image * 2 - 1).to(device, dtype)
        with watch.stage("text"):
            context = models["text"](encode_tokens([PROMPT]).to(device)).last_hidden_state
        with watch.stage("uncertainty"):
            u = uem(x)
        with watch.stage("encode"):
            z = models["vae"].encode(x).latent_dist.mean * SCALE
        with watch.stage("encode map"):
            encoded = models["vae"].encode(u).latent_dist.mean * SCALE
        sigma = noise_sigma(encoded, NoiseParameters())
        injected = injected_noise(seeded_noise(tuple(z.shape), 0).to(device), sigma, 0.5).to(dtype)
        with watch.stage("denoise"):
            eps = models["unet"](z + injected, torch.ones(1, device=device), context).sample
        with watch.stage("decode"):
            out = models["vae"].decode((z + injected - eps) / SCALE).sample
        with watch.stage("colour"):
            fixed = fix_color(((out.float() + 1) / 2).clamp(0, 1).cpu(), image, "adain")
        return fixed.clamp(0, 1)

    return run, "diffusers"


def import_pack(cpu: bool) -> Any:
    """The extension inside ComfyUI, in this process."""
    import importlib.util

    from tests.support.comfyui import comfyui_path

    sys.path.insert(0, str(comfyui_path()))
    import comfy.cli_args

    comfy.cli_args.args.cpu = cpu
    spec = importlib.util.spec_from_file_location(
        "qusr_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None
    assert spec.loader is not None
    pack = importlib.util.module_from_spec(spec)
    sys.modules["qusr_pack"] = pack
    spec.loader.exec_module(pack)
    return pack


def ours(size: int, device: torch.device, dtype: torch.dtype) -> tuple[Callable[[Stopwatch], Tensor], str]:
    """The nodes' own functions inside ComfyUI."""
    pack = import_pack(cpu=device.type == "cpu")
    import comfy.cli_args

    comfy.cli_args.args.fp32_vae = dtype == torch.float32
    comfy.cli_args.args.fp16_vae = dtype == torch.float16
    nodes = pack.nodes
    model, clip, vae = _native(device, dtype)
    noise_parameters = pack.qusr_train.model.noise.NoiseParameters()
    patched = nodes.native.sampling.make_one_step(model.clone(), "reference")
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
            latent = nodes.native.vae.encode_latent(vae, image)
        with watch.stage("encode map"):
            noise = nodes.noise.adaptive_noise(vae, uncertainty, 0, noise_parameters)
        tiling = nodes.upscale.denoiser_tiling(patched, latent["samples"])
        with watch.stage("denoise"):
            restored = nodes.denoise.one_step(patched, conditioning, latent, noise, tiling)
        with watch.stage("decode"):
            out = nodes.native.vae.decode_latent(vae, restored)
        with watch.stage("colour"):
            fixed = pack.qusr_train.images.color.fix_color(out.movedim(-1, 1), rgb, "adain")
        return fixed.clamp(0, 1)

    return run, "ComfyUI nodes"


def _native(device: torch.device, dtype: torch.dtype) -> tuple[Any, Any, Any]:
    import comfy.model_base
    import comfy.model_management
    import comfy.model_patcher
    import comfy.sd
    import comfy.supported_models
    import comfy.text_encoders.sd2_clip
    import comfy.utils

    shape = {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [2, 2, 2, 2],
        "channel_mult": [1, 2, 4, 4], "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], "context_dim": 1024,
        "use_linear_in_transformer": True, "use_spatial_transformer": True, "legacy": False, "adm_in_channels": None,
        "use_temporal_attention": False, "dtype": dtype,
    }  # fmt: skip
    base = comfy.model_base.BaseModel(comfy.supported_models.SD20(shape))
    names = comfy.utils.unet_to_diffusers(base.model_config.unet_config)
    given = weights(parameter_shapes(skeleton("unet")), 0)
    base.diffusion_model.load_state_dict({names[name]: value.to(dtype) for name, value in given})
    management = comfy.model_management
    model = comfy.model_patcher.ModelPatcher(
        base.eval(), load_device=management.get_torch_device(), offload_device=management.unet_offload_device()
    )
    vae = comfy.sd.VAE(sd=dict(weights(parameter_shapes(skeleton("vae")), 1)), dtype=dtype)
    target = comfy.supported_models.SD20(shape).clip_target()
    clip = comfy.sd.CLIP(target, model_options={"dtype": dtype})
    text = clip.cond_stage_model.clip_h.transformer
    state = {
        name if name.startswith("text_model.") else f"text_model.{name}": value.to(dtype)
        for name, value in weights(parameter_shapes(skeleton("text")), 2)
    }
    missing = text.load_state_dict(state, strict=False).missing_keys
    # ComfyUI reads the last but one of 24 layers; diffusers' SD 2.1 has 23. The 24th is never used.
    rest = [name for name in missing if ".layers.23." not in name and "text_projection" not in name]
    if rest:
        raise RuntimeError(f"text encoder: {rest[:3]} have no weights")
    return model, clip, vae


def measure(
    path: str, size: int, device: torch.device, dtype: torch.dtype, repeats: int, output: str
) -> dict[str, Any]:
    """Run one case in this process."""
    run, name = {"plain": plain, "ours": ours}[path](size, device, dtype)
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
    parser.add_argument("--one", nargs=2, metavar=("PATH", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    dtype_name = arguments.dtype or ("float16" if device.type == "cuda" else "float32")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.one:
        path, output = arguments.one
        dtype = getattr(torch, dtype_name)
        print(json.dumps(measure(path, arguments.sizes[0], device, dtype, arguments.repeats, output)))
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
                options = ["--sizes", str(size), "--device", arguments.device, "--dtype", dtype_name]
                options += ["--repeats", str(arguments.repeats), "--one", path, picture]
                options += ["--threads", str(torch.get_num_threads())]
                command = [sys.executable, "-m", "tests.bench.inference", *options]
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
