"""How true the UEM's gradient through the noise is in half precision: `python -m tests.bench.precision`.

The golden model (tests/golden) on its device or the CPU. For each precision, and for each way to compute the map's
branch (UEM, VAE encoder, equations 4 to 6), the cosine between the UEM's gradient and the float32 one, over several
draws of the noise; the losses reach the UEM through the noise only.
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

BRANCHES = ("half", "UEM in float32", "all in float32")
"""Nothing, the UEM, or UEM and VAE encoder of the map outside of mixed precision."""
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
LOSS_SCALE = 2.0**12  # a gradient scaler's part, against underflow


def gradient(
    base: StableDiffusion, uem: UEM, x_lq: Tensor, x_gt: Tensor, draws: list[Tensor], dtype: torch.dtype | None,
    branch: str, delta: float,
) -> Tensor:  # fmt: skip
    """The UEM's gradient of the mean squared error, one vector."""
    kind = x_lq.device.type

    def mixed(on: bool = True) -> Any:
        return torch.autocast(kind, dtype) if dtype and on else torch.autocast(kind, enabled=False)

    uem.zero_grad()
    with mixed():
        context = base.encode_text(["a blurry photo with noise"] * len(x_lq))
        with torch.no_grad():
            z_lq = sample_latent(*base.moments(x_lq), draws[0], base.latent_scale)
    with mixed(branch == "half"):
        u = uem(x_lq)
    with mixed(branch != "all in float32"):
        u_encoded = sample_latent(*base.moments(u.float()), draws[1], base.latent_scale)
    with mixed():
        t = torch.full((len(x_lq),), TIMESTEP, device=x_lq.device)
        parameters = NoiseParameters("reference", delta=delta)
        z_hq = guided_step(
            z_lq, u_encoded, draws[2], parameters, lambda z: base.unet(z, t, encoder_hidden_states=context).sample
        )
        x_hq = base.decode(z_hq)
    (F.mse_loss(x_hq.float(), x_gt) * LOSS_SCALE).backward()
    return torch.cat([p.grad.flatten().float() for p in uem.parameters() if p.grad is not None]) / LOSS_SCALE


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--draws", type=int, default=6)
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
    print("| precision | map's branch | delta | smallest cosine | mean |")
    print("|---|---|---|---|---|")
    for delta in (1e-8, 1e-4):
        cosines: dict[tuple[str, str], list[float]] = {}
        for seed in range(arguments.draws):
            g = torch.Generator().manual_seed(seed)
            draws = [torch.randn((1, 4, 8, 8), generator=g).to(device) for _ in range(3)]
            with nullcontext():
                true = gradient(base, uem, x_lq, x_gt, draws, None, "half", delta)
            for name, dtype in HALVES.items():
                for branch in BRANCHES:
                    ours = gradient(base, uem, x_lq, x_gt, draws, dtype, branch, delta)
                    cosines.setdefault((name, branch), []).append(F.cosine_similarity(true, ours, 0).item())
        for (name, branch), values in cosines.items():
            print(f"| {name} | {branch} | {delta:g} | {min(values):.3f} | {sum(values) / len(values):.3f} |")


if __name__ == "__main__":
    main()
