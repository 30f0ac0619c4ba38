"""What the two kinds of VAE tiles cost, at SD 2.1's full shapes: `python -m tests.bench.vae_tiles`.

Random weights, one decoding each: the whole latent, exact tiles, blended tiles. CPU seconds count this
process's work only. The difference is the largest to the whole, in grey levels; random weights make it
larger than trained ones would.
"""

from __future__ import annotations

import argparse
import time

import torch

from tests.bench.native import import_pack
from tests.bench.shapes import parameter_shapes, photo, skeleton, weights


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--tile", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pack = import_pack(cpu=not torch.cuda.is_available())
    import comfy.cli_args
    import comfy.sd

    comfy.cli_args.args.fp32_vae = True
    vae = comfy.sd.VAE(sd=dict(weights(parameter_shapes(skeleton("vae")), 1)), dtype=torch.float32)
    decode = pack.nodes.vae.decode
    print(f"{vae.device}, float32, {arguments.threads} threads, {arguments.size} px, tiles of {arguments.tile} px\n")
    print("| decoding | s | CPU s | largest difference, grey levels |")
    print("|---|---|---|---|")
    with torch.inference_mode():
        latent = pack.nodes.vae.encode(vae, photo(arguments.size))
        whole = None
        for name, tile, mode in (("whole", 0, "exact"), ("exact", None, "exact"), ("blended", None, "blended")):
            wall, own = time.perf_counter(), time.process_time()
            image = decode(vae, latent, arguments.tile if tile is None else tile, mode)
            wall, own = time.perf_counter() - wall, time.process_time() - own
            whole = image if whole is None else whole
            difference = (image - whole).abs().max().item() * 255
            print(f"| {name} | {wall:.1f} | {own:.1f} | {difference:.3f} |", flush=True)


if __name__ == "__main__":
    main()
