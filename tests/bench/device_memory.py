"""Device memory of each step at full SD 2.1 shapes in float16: `python -m tests.bench.device_memory`.

Counted with tests/support/device_meter.py, so that no GPU is needed; the models' own weights are left out.
`whole` runs the module over the whole image, `tiles` is what this extension's nodes do when a tile is set.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.support.device_meter import DEVICE, DeviceMeter, on_device, without_data

LATENT_TILE, LATENT_OVERLAP = 96, 32
VAE_SHAPE = {
    "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
    "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
}  # fmt: skip
UNET_SHAPE = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4], "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], "context_dim": 1024, "num_head_channels": 64,
    "use_linear_in_transformer": True, "use_spatial_transformer": True, "legacy": False,
}  # fmt: skip


def vae_model() -> Any:
    """SD 2.1's VAE as ComfyUI builds it; inside `on_device`."""
    from comfy.ldm.models.autoencoder import AutoencoderKL

    return AutoencoderKL(ddconfig=VAE_SHAPE, embed_dim=4).eval()


def unet_model() -> Any:
    """SD 2.1's UNet as ComfyUI builds it; inside `on_device`."""
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    return UNetModel(**UNET_SHAPE, dtype=torch.float16, device=DEVICE).eval()


def peak(run: Callable[[], Any]) -> int:
    """Bytes."""
    with DeviceMeter() as meter:
        run()
    return meter.peak


def steps(pack: Any, size: int, tile: int) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """For each step: the whole image, and tiles."""
    from comfy.ldm.modules.attention import attention_pytorch
    from comfy.ldm.modules.diffusionmodules.model import pytorch_attention

    half = torch.float16
    with on_device(half):
        vae, unet, uem = vae_model(), unet_model(), pack.qusr_train.model.uncertainty.UEM(64)
    for coder in (vae.encoder, vae.decoder):  # the exact tiles use the same
        coder.mid.attn_1.optimized_attention = pytorch_attention
    layers = pack.nodes.native.exact_vae.native_layers(vae)
    exact = pack.qusr_train.model.exact_vae.ExactVAE(layers, tile, DEVICE, half)
    pixels, latent = torch.zeros(1, 3, size, size), torch.zeros(1, 4, size // 8, size // 8)
    text, time = torch.zeros(1, 77, 1024, device=DEVICE, dtype=half), torch.ones(1, device=DEVICE)

    def attend(_: Any, *arguments: Any, **options: Any) -> Tensor:
        return attention_pytorch(*arguments, **options)

    def denoise(z: Tensor, *_: Any) -> Tensor:
        return unet(z, time, text, transformer_options={"optimized_attention_override": attend})

    def there(x: Tensor) -> Tensor:
        return x.to(DEVICE, half)

    blend = pack.qusr_train.images.tiling.blend_tiles
    estimate = pack.qusr_train.model.uncertainty.estimate_uncertainty
    return {
        "uncertainty": (lambda: uem(there(pixels)), lambda: estimate(uem, there(pixels))),
        "encode": (lambda: vae.quant_conv(vae.encoder(there(pixels))), lambda: exact.moments(pixels)),
        "denoise": (
            lambda: denoise(there(latent)),
            lambda: blend(there(latent), denoise, LATENT_TILE, LATENT_OVERLAP),
        ),
        "decode": (lambda: vae.decode(there(latent)), lambda: exact.decode(latent)),
    }


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024, 2048, 4096])
    parser.add_argument("--tile", type=int, default=512, help="VAE tile in image pixels (default: 512)")
    arguments = parser.parse_args()
    from tests.bench.native import import_pack

    sys.argv = sys.argv[:1]  # ComfyUI reads the command line too
    pack = import_pack(cpu=True)
    import comfy.model_management

    comfy.model_management.get_free_memory = lambda *_, **__: 2**40  # there is no device to ask
    print(f"GiB, VAE tile {arguments.tile}, denoiser tile {LATENT_TILE} of the latent, torch {torch.__version__}\n")
    print("| size | step | whole | tiles |")
    print("|---|---|---|---|")
    for size in arguments.sizes:
        with without_data():
            for name, runs in steps(pack, size, arguments.tile).items():
                whole, tiles = (peak(run) / 2**30 for run in runs)
                print(f"| {size} | {name} | {whole:.2f} | {tiles:.2f} |", flush=True)


if __name__ == "__main__":
    main()
