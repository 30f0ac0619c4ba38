"""How true the UEM's gradient through the noise is in half precision: `python -m tests.bench.precision`.

The golden model (tests/golden) on its device or the CPU: the cosine between the UEM's gradient and the float32 one,
of single draws of the noise and of all of them as one step's batch, depending on what is left in float32, on the scale
of the loss, and on the floor under the square root of equation 6. The loss reaches the UEM through the noise only.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from qusr_train.checkpoints.load import load_checkpoint
from qusr_train.images.read import read_image
from qusr_train.model.lora import merge
from qusr_train.model.noise import NoiseParameters, guided_step
from qusr_train.model.stable_diffusion import TIMESTEP, StableDiffusion, load_stable_diffusion, sample_latent
from qusr_train.model.uncertainty import UEM
from tests.support.diffusers_model import GOLDEN, golden_folder

EXACT: dict[str, frozenset[str]] = {
    "nothing": frozenset(),
    "UEM": frozenset({"uem"}),
    "UEM, encoder": frozenset({"uem", "encoder"}),
    "UEM, encoder, decoder": frozenset({"uem", "encoder", "decoder"}),
    "UEM, encoder, UNet": frozenset({"uem", "encoder", "unet"}),
}
"""What is computed in float32, outside of mixed precision: the encoder of the map, the UNet, the decoder."""
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
SCALES = (1.0, 2.0**12, 2.0**16)  # a gradient scaler's part, against underflow
CASES: tuple[tuple[NoiseParameters, tuple[str, ...], tuple[float, ...]], ...] = (
    (NoiseParameters("reference"), tuple(EXACT), SCALES[1:2]),
    (NoiseParameters("reference"), ("UEM, encoder",), (SCALES[0], SCALES[2])),
    (NoiseParameters("reference", delta=1e-4), ("UEM, encoder",), SCALES[1:2]),
    (NoiseParameters("paper", m=0.01), ("nothing", "UEM, encoder"), SCALES[1:2]),
    (NoiseParameters("paper", m=0.1), ("nothing", "UEM, encoder"), SCALES[1:2]),
)
"""One choice at a time: what is in float32, the scale of the loss, delta, the floor of equation 5."""


def gradient(
    base: StableDiffusion, uem: UEM, x_lq: Tensor, x_gt: Tensor, draws: list[Tensor], dtype: torch.dtype | None,
    exact: frozenset[str], parameters: NoiseParameters, scale: float,
) -> Tensor:  # fmt: skip
    """The UEM's gradient of the mean squared error, one vector."""
    kind = x_lq.device.type

    def mixed(part: str = "") -> Any:
        return torch.autocast(kind, dtype, enabled=part not in exact) if dtype else nullcontext()

    def denoise(z: Tensor) -> Tensor:
        with mixed("unet"):
            return base.unet(z, t, encoder_hidden_states=context.float() if "unet" in exact else context).sample

    uem.zero_grad()
    t = torch.full((len(x_lq),), TIMESTEP, device=x_lq.device)
    with mixed():
        context = base.encode_text(["a blurry photo with noise"] * len(x_lq))
        with torch.no_grad():
            z_lq = sample_latent(*base.moments(x_lq), draws[0], base.latent_scale)
    with mixed("uem"):
        u = uem(x_lq)
    with mixed("encoder"):
        u_encoded = sample_latent(*base.moments(u.float()), draws[1], base.latent_scale)
    with mixed():
        z_hq = guided_step(z_lq, u_encoded, draws[2], parameters, denoise)
    with mixed("decoder"):
        x_hq = base.decode(z_hq)
    (F.mse_loss(x_hq.float(), x_gt) * scale).backward()
    return torch.cat([p.grad.flatten().float() for p in uem.parameters() if p.grad is not None]) / scale


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--draws", type=int, default=16)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    with TemporaryDirectory() as folder:
        base = load_stable_diffusion(golden_folder(Path(folder) / "model"))
    checkpoint = load_checkpoint(GOLDEN / "checkpoints" / "qusr.pkl")
    merge(base.unet, checkpoint.lora)
    base.to(device, torch.float32)  # mixed precision casts on the way: the weights themselves are half-precision
    uem = checkpoint.build_uem().to(device).requires_grad_(True)
    whole = read_image(GOLDEN / "runs" / "qusr_128_lq.png").rgb.to(device) * 2 - 1
    x_lq = whole[:, :, 32:96, 32:96]
    x_gt = (x_lq * 1.1).clamp(-1, 1)
    print(f"golden model, 64 x 64, {arguments.draws} draws, {device.type}, torch {torch.__version__}\n")
    print("| precision | in float32 | floor m, delta | loss times | smallest cosine | mean | all draws as one step |")
    print("|---|---|---|---|---|---|---|")
    for parameters, exact_names, scales in CASES:
        cosines: dict[tuple[str, str, float], list[float]] = {}
        step: Tensor | float = 0.0
        steps: dict[tuple[str, str, float], Tensor | float] = {}
        for seed in range(arguments.draws):
            g = torch.Generator().manual_seed(seed)
            draws = [torch.randn((1, 4, 8, 8), generator=g).to(device) for _ in range(3)]
            true = gradient(base, uem, x_lq, x_gt, draws, None, frozenset(), parameters, 1.0)
            step = step + true
            for name, dtype in HALVES.items():
                for exact in exact_names:
                    for scale in scales:
                        ours = gradient(base, uem, x_lq, x_gt, draws, dtype, EXACT[exact], parameters, scale)
                        same = F.cosine_similarity(true, ours, 0).item()
                        key = (name, exact, scale)
                        cosines.setdefault(key, []).append(same)
                        steps[key] = steps.get(key, 0.0) + ours
        floor = f"{parameters.m:g}, {parameters.delta:g}"
        for key, values in cosines.items():
            (name, exact, scale), mean = key, sum(values) / len(values)
            whole_step = F.cosine_similarity(torch.as_tensor(step), torch.as_tensor(steps[key]), 0).item()
            row = f"| {name} | {exact} | {floor} | {scale:g} | {min(values):.3f} | {mean:.3f} | {whole_step:.3f} |"
            print(row, flush=True)


if __name__ == "__main__":
    main()
