"""What to turn in a model fine-tuned from a diffusion model: the strength of its LoRA, or the share of the residual?

`python -m tests.bench.dial PHOTOS` trains a tiny diffusion model (epsilon, Stable Diffusion's noise schedule) on the
photos of a folder, then a LoRA on it that restores in one step as QUSR does (z_hq = z_lq - eps, t = 1), and turns both
dials on photos that were held back. Minutes on one core; every real model of this kind is out of reach without a GPU.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qusr_train.images.find import find_images
from qusr_train.images.read import read_image
from qusr_train.model.lora import LoraLayer, add_adapters, added, extract_adapters

PATCH, BATCH, FOLD, GAIN = 32, 8, 2, 1.8  # pixels; the gain brings the unshuffled pixels to about unit variance
HELD_BACK, JUDGED, LONGEST = 7, 64, 800
POSITIONS = (0.0, 0.25, 0.5, 0.75, 1.0)


def encode(x: Tensor) -> Tensor:
    """(B, 3, H, W) in [-1, 1] -> latent (B, 12, H / 2, W / 2)."""
    return F.pixel_unshuffle(x, FOLD) * GAIN


def decode(z: Tensor) -> Tensor:
    return F.pixel_shuffle(z / GAIN, FOLD)


def patches(photos: list[Tensor], count: int) -> Tensor:
    """(count, 3, PATCH, PATCH) in [-1, 1], from anywhere."""
    cut = []
    for _ in range(count):
        photo = random.choice(photos)
        y, x = (random.randrange(side - PATCH + 1) for side in photo.shape[-2:])
        cut.append(photo[:, y : y + PATCH, x : x + PATCH])
    return torch.stack(cut) * 2 - 1


def degraded(sharp: Tensor) -> Tensor:
    """A quarter of the size with noise, enlarged bicubically."""
    small = F.interpolate(sharp, scale_factor=0.25, mode="bicubic", antialias=True, align_corners=False)
    noisy = small + 0.02 * torch.randn_like(small)
    return F.interpolate(noisy, scale_factor=4, mode="bicubic", align_corners=False).clamp(-1, 1)


def train_base(unet: nn.Module, photos: list[Tensor], steps: int) -> None:
    share = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)
    optimizer = torch.optim.Adam(unet.parameters(), 8e-4)
    for step in range(steps):
        _learn_at(optimizer, 8e-4 * (1 - step / steps))
        z = encode(patches(photos, BATCH))
        t = torch.randint(0, 1000 if step % 2 else 150, (BATCH,))  # little noise more often: the step is at t = 1
        noise, a = torch.randn_like(z), share[t].view(-1, 1, 1, 1)
        _step(optimizer, F.mse_loss(unet(a.sqrt() * z + (1 - a).sqrt() * noise, t).sample, noise))


def train_lora(unet: nn.Module, photos: list[Tensor], steps: int) -> dict[str, LoraLayer]:
    """The LoRA; the UNet keeps it as an adapter."""
    add_adapters(unet, rank=8)
    optimizer = torch.optim.Adam([p for p in unet.parameters() if p.requires_grad], 2e-3)
    for step in range(steps):
        _learn_at(optimizer, 2e-3 * (1 - step / steps))
        sharp = patches(photos, BATCH)
        z = encode(degraded(sharp))
        _step(optimizer, F.l1_loss(z - residual(unet, z), encode(sharp)))
    return extract_adapters(unet)


def residual(unet: nn.Module, z: Tensor) -> Tensor:
    return unet(z, torch.ones(len(z), dtype=torch.long)).sample


def _learn_at(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def psnr(x: Tensor, y: Tensor) -> float:
    return 10 * math.log10(4 / F.mse_loss(x.clamp(-1, 1), y).item())


def rms(x: Tensor) -> float:
    return x.square().mean().sqrt().item()


def photos_of(folder: Path) -> Iterable[Tensor]:
    for path in find_images(folder):
        photo = read_image(path).rgb
        scale = LONGEST / max(photo.shape[-2:])
        yield (F.interpolate(photo, scale_factor=scale, mode="area") if scale < 1 else photo)[0]


def main() -> None:
    """Print the table."""
    from diffusers import UNet2DModel

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--base_steps", type=int, default=1500)
    parser.add_argument("--lora_steps", type=int, default=900)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    random.seed(0)
    photos = list(photos_of(arguments.photos))
    random.shuffle(photos)
    shape = {
        "sample_size": PATCH // FOLD, "in_channels": 3 * FOLD**2, "out_channels": 3 * FOLD**2,
        "block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 16,
        "down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2,
    }  # fmt: skip
    unet = UNet2DModel(**shape)
    train_base(unet, photos[:-HELD_BACK], arguments.base_steps)
    plain = {name: value.clone() for name, value in unet.state_dict().items()}
    sharp = patches(photos[-HELD_BACK:], JUDGED)
    photo = degraded(sharp)
    z = encode(photo)
    with torch.no_grad():
        print(f"rms of the base's eps {rms(residual(unet, z)):.3f}, of the true residual {rms(z - encode(sharp)):.3f}")
    lora = train_lora(unet, photos[:-HELD_BACK], arguments.lora_steps)
    base = UNet2DModel(**shape)
    base.load_state_dict(plain)
    print(f"the photo itself: {psnr(photo, sharp):.2f} dB\n")
    print(
        "| dial | to the truth | to the photo | by the residual: to the truth | to the photo |\n|---|---|---|---|---|"
    )
    for at in POSITIONS:
        weaker = {name: LoraLayer(layer.down, layer.up, layer.alpha * at) for name, layer in lora.items()}
        with torch.no_grad():
            with added(base, weaker):
                by_lora = decode(z - residual(base, z))
            with added(base, lora):
                by_residual = decode(z - at * residual(base, z))
        cells = [f"{psnr(x, y):.2f}" for x in (by_lora, by_residual) for y in (sharp, photo)]
        print(f"| {at} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
