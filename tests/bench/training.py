"""Time and memory of a training step at full SD 2.1 shapes: `python -m tests.bench.training`.

Random weights, VGG16's included: time and memory do not depend on their values. `ours` is the shipped
recipe (mixed precision, gradient checkpointing, one UNet for student and teacher, text encoded once);
`cached` also reads the inputs' latents instead of encoding them. `plain` is a straightforward loop in
float32 with the same losses: a second frozen UNet, everything encoded at every step.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qusr_train.data.samples import Batch
from qusr_train.model.stable_diffusion import StableDiffusion
from qusr_train.training import losses
from qusr_train.training.config import TrainConfig, load_config_file
from qusr_train.training.optimizer import make_optimizer
from qusr_train.training.perceptual import PerceptualLoss
from qusr_train.training.sd21 import SD21Task
from qusr_train.training.step import StepNoise

from .meters import MemoryWatch
from .shapes import PROMPT, random_module

ROOT = Path(__file__).resolve().parents[2]
CASES = ("plain", "ours", "cached")


def full_size_model() -> StableDiffusion:
    """SD 2.1-base's shapes with random weights."""
    parts = [random_module(kind, seed) for seed, kind in enumerate(("unet", "vae", "text"))]
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return StableDiffusion(*parts, (1 - betas).cumprod(0).float())


class PlainTask(SD21Task):
    """The same losses without what makes ours fast: float32, a second UNet, nothing remembered."""

    def prepare(self, device: torch.device) -> None:
        self.teacher = self._teacher.to(device)
        for part in (self.base.unet, self.base.vae, self.base.text_encoder, self.model.uem, self.perceptual):
            part.to(device)
        self.base.alphas_cumprod = self.base.alphas_cumprod.to(device)
        self.model.train()

    def __init__(self, config: TrainConfig, base: StableDiffusion, perceptual: PerceptualLoss) -> None:
        self._teacher = copy.deepcopy(base.unet)
        super().__init__(config, base, perceptual)

    def encode_text(self, prompts: list[str]) -> Tensor:
        return self.base.encode_text(prompts)

    def _csd(self, z_hq: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        config, count = self.config, len(z_hq)
        context = self.encode_text([config.csd_prompt] * count + [config.csd_negative_prompt] * count)

        def predict(z_t: Tensor) -> tuple[Tensor, Tensor]:
            eps = self.teacher(z_t.repeat(2, 1, 1, 1), timesteps.repeat(2), encoder_hidden_states=context).sample
            positive, negative = eps.chunk(2)
            return positive, negative

        alphas = self.base.alphas_cumprod[timesteps]
        return losses.csd_loss(z_hq, noise, alphas, predict, config.csd_guidance)


@dataclass(frozen=True)
class Measured:
    """Result of one case."""

    case: str
    seconds: float
    """Of a step, the median."""
    memory: float
    """Peak in GiB: of the GPU, or of the process."""
    images_per_second: float


def run_case(case: str, batch: int, patch: int, steps: int, checkpointing: bool) -> Measured:
    """Warm up once, then time optimiser steps: on a CPU in CPU seconds, since the machine may be busy otherwise."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    half = case != "plain"
    config = TrainConfig.from_mapping(
        {
            **load_config_file("sd21"),
            "init": "-", "photos": "-", "out": "-", "batch_size": batch, "patch": patch,
            "precision": "bf16" if half else "no", "gradient_checkpointing": checkpointing and half,
        }
    )  # fmt: skip
    torch.backends.cuda.matmul.allow_tf32 = half
    task = (SD21Task if half else PlainTask)(config, full_size_model(), PerceptualLoss(None))
    task.prepare(device)
    optimizer = make_optimizer(task.model, config)
    x = torch.rand(2, batch, 3, patch, patch, device=device) * 2 - 1
    moments = None
    if case == "cached":
        with torch.no_grad():
            one = task.base.moments(x[0][:1])
            moments = torch.stack([m.expand(batch, -1, -1, -1) for m in one], dim=1)
    data = Batch(x[0], x[1], [f"{PROMPT} {i}" for i in range(batch)], moments)
    seconds = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()

    def autocast() -> Any:
        return torch.autocast(device.type, torch.bfloat16) if half else nullcontext()

    clock = time.perf_counter if device.type == "cuda" else time.process_time
    with MemoryWatch() as watch:
        for step in range(steps + 1):
            started = clock()
            noise = StepNoise(1, step, 0, batch, batch)
            task.step(task.model, data, noise, autocast).loss.backward()
            torch.nn.utils.clip_grad_norm_([p for p in task.model.parameters() if p.requires_grad], 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if device.type == "cuda":
                torch.cuda.synchronize()
            if step:
                seconds.append(clock() - started)
    memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else watch.peak
    median = sorted(seconds)[len(seconds) // 2]
    return Measured(case, median, memory, batch / median)


def main() -> int:
    """Each case in a process of its own; prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--batch", type=int, default=4 if torch.cuda.is_available() else 1)
    parser.add_argument("--patch", type=int, default=512 if torch.cuda.is_available() else 64)
    parser.add_argument("--steps", type=int, default=10 if torch.cuda.is_available() else 1)
    parser.add_argument("--no_checkpointing", action="store_true")
    given = parser.parse_args()
    if given.case:
        result = run_case(given.case, given.batch, given.patch, given.steps, not given.no_checkpointing)
        print(json.dumps(result.__dict__))
        return 0
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(f"{where}, torch {torch.__version__}, batch {given.batch}, {given.patch} x {given.patch}")
    print("| loop | step | peak memory | images/s | against plain |\n|---|---|---|---|---|")
    plain = 0.0
    for case in given.cases:
        command = [sys.executable, "-m", "tests.bench.training", "--case", case, "--batch", str(given.batch)]
        command += ["--patch", str(given.patch), "--steps", str(given.steps)]
        command += ["--no_checkpointing"] if given.no_checkpointing else []
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"| {case} | failed: {done.stderr.strip().splitlines()[-1][:120]} | | | |")
            continue
        result = Measured(**json.loads(done.stdout.strip().splitlines()[-1]))
        plain = result.images_per_second if case == "plain" else plain
        ratio = f"{result.images_per_second / plain:.2f} x" if plain else ""
        print(
            f"| {case} | {result.seconds:.2f} s | {result.memory:.1f} GiB | {result.images_per_second:.3f} | {ratio} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
