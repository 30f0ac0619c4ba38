"""Loader nodes."""

from __future__ import annotations

from comfy_api.latest import io

from .nano import load_nano_models
from .sockets import CATEGORY, UEMSocket


class QUSRNanoLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="QUSRNanoLoader",
            display_name="QUSR Nano Loader",
            category=CATEGORY,
            description="Loads qusr-nano, the small 4x model that comes with this extension. Nothing is downloaded.",
            inputs=[
                io.Float.Input(
                    "lora_strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="Strength of the QUSR fine-tuning (LoRA) on nano's base. 1 as trained, 0 the plain base.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model", tooltip="One-step denoiser; also works with SamplerCustomAdvanced."
                ),
                io.Clip.Output(display_name="clip", tooltip="nano's own text encoder: no other CLIP fits this model."),
                io.Vae.Output(display_name="vae", tooltip="Lossless pixel unshuffle, 4 x 4 pixels to 48 channels."),
                UEMSocket.Output(display_name="uem", tooltip="Uncertainty estimation module."),
            ],
        )

    @classmethod
    def execute(cls, lora_strength: float) -> io.NodeOutput:
        models = load_nano_models(lora_strength)
        return io.NodeOutput(models.model, models.clip, models.vae, models.uem)
