"""Everything in one node."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor
from torch.nn import functional as F

from ..qusr_train.color import COLOR_FIXES, fix_color
from .denoise import one_step
from .enlarge import enlarge_by
from .host import check_image, checkpoint_interrupt, image_out, progress
from .nano import load_nano_models
from .noise import adaptive_noise
from .prompt import encode_prompts, measured_prompts
from .sockets import CATEGORY, LoadedUEM, UEMSocket, Uncertainty, UncertaintySocket
from .uncertainty import estimate

# The denoiser takes an image whole up to this many latent pixels, then in tiles of their square root.
WHOLE_IMAGE_LIMIT = 512 * 512


@dataclass(frozen=True)
class Preset:
    """Strengths behind a preset's name."""

    strength: float
    noise: float
    text: str


PRESETS = {
    "balanced": Preset(1.0, 1.0, "as trained"),
    "faithful": Preset(0.6, 0.0, "less added detail, no noise, closest to the photo"),
    "crisp": Preset(1.25, 1.0, "more detail than trained, may exaggerate"),
}
CUSTOM = "custom"


class QUSRUpscale(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        explained = ". ".join(f"{name}: {preset.text}" for name, preset in PRESETS.items())
        return io.Schema(
            node_id="QUSRUpscale",
            display_name="QUSR Upscale",
            category=CATEGORY,
            description=(
                "Enlarges a photo four times and restores it: quality prompt, uncertainty, adaptive noise, one-step "
                "denoiser and colour fix in one node. Works at once with the bundled qusr-nano model."
            ),
            inputs=[
                io.Image.Input("image", tooltip="The small photo. Grey, RGBA, any size and batches work."),
                io.Combo.Input(
                    "preset",
                    options=[*PRESETS, CUSTOM],
                    default="balanced",
                    tooltip=f"{explained}. custom: the strengths below.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Of the injected noise; changes fine texture.",
                ),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    default="",
                    tooltip="Quality prompt in your own words, or from a captioner. Empty: measured on each image.",
                ),
                io.Float.Input(
                    "strength", default=1.0, min=0.0, max=2.0, step=0.05, tooltip="Added detail (preset custom only)."
                ),
                io.Float.Input(
                    "noise_strength",
                    default=1.0,
                    min=0.0,
                    max=4.0,
                    step=0.05,
                    tooltip="Injected noise (preset custom only).",
                ),
                io.Combo.Input(
                    "color_fix", options=list(COLOR_FIXES), default="wavelet", tooltip="Keeps the colours of the photo."
                ),
                io.Model.Input(
                    "model", optional=True, tooltip="Connect all four of model, clip, vae and uem, or none."
                ),
                io.Clip.Input("clip", optional=True, tooltip="Connect all four of model, clip, vae and uem, or none."),
                io.Vae.Input("vae", optional=True, tooltip="Connect all four of model, clip, vae and uem, or none."),
                UEMSocket.Input("uem", optional=True, tooltip="Connect all four of model, clip, vae and uem, or none."),
            ],
            outputs=[
                io.Image.Output(display_name="upscaled", tooltip="RGBA if the photo was."),
                UncertaintySocket.Output(display_name="uncertainty", tooltip="For QUSR Uncertainty View."),
                io.Image.Output(display_name="bicubic", tooltip="The photo only enlarged, for comparison."),
                io.String.Output(display_name="prompt_used", tooltip="The quality prompts, one for each line."),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        preset: str,
        seed: int,
        prompt: str,
        strength: float,
        noise_strength: float,
        color_fix: str,
        model: Any = None,
        clip: Any = None,
        vae: Any = None,
        uem: LoadedUEM | None = None,
    ) -> io.NodeOutput:
        given = {"model": model, "clip": clip, "vae": vae, "uem": uem}
        missing = [name for name, value in given.items() if value is None]
        if 0 < len(missing) < len(given):
            raise ValueError(
                f"{', '.join(missing)}: not connected; connect model, clip, vae and uem of the same loader, "
                "or none of them to use the bundled qusr-nano"
            )
        if missing:
            nano = load_nano_models()
            model, clip, vae, uem = nano.model, nano.clip, nano.vae, nano.uem
        assert uem is not None
        if preset != CUSTOM:
            strength, noise_strength = PRESETS[preset].strength, PRESETS[preset].noise
        checked = check_image(image)
        prompts = [prompt] * checked.rgb.shape[0] if prompt.strip() else measured_prompts(image)
        parameters = dataclasses.replace(uem.noise, p=uem.noise.p * noise_strength)

        results, enlarged, maps = [], [], []
        bar = progress(checked.rgb.shape[0])
        for index, text in enumerate(prompts):  # one by one: memory does not grow with the batch
            checkpoint_interrupt()
            bicubic = enlarge_by(checked.rgb[index : index + 1], 4.0)
            height, width = bicubic.shape[-2:]
            block = vae.spacial_compression_encode()
            padded = F.pad(bicubic, (0, -width % block, 0, -height % block), mode="replicate")
            uncertainty = estimate(padded, uem)
            latent = {"samples": vae.encode(image_out(padded))}
            noise = adaptive_noise(vae, uncertainty, seed, parameters)
            area = latent["samples"].shape[-2] * latent["samples"].shape[-1]
            tile, overlap = (384, 64) if area > WHOLE_IMAGE_LIMIT else (0, 0)
            conditioning = encode_prompts(clip, [text]).conditioning
            restored = one_step(model, conditioning, latent, noise, tile, overlap, strength)
            pixels = check_image(vae.decode(restored["samples"]), "decoded image").rgb[..., :height, :width]
            results.append(fix_color(pixels, bicubic.to(pixels), color_fix))
            enlarged.append(bicubic)
            maps.append(uncertainty.map[..., :height, :width])
            bar.update(1)
        alpha = None if checked.alpha is None else enlarge_by(checked.alpha, 4.0)
        return io.NodeOutput(
            image_out(torch.cat(results), alpha),
            Uncertainty(torch.cat(maps), uem.noise, uem.latent_scale),
            image_out(torch.cat(enlarged)),
            "\n".join(prompts),
        )
