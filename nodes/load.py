"""Loader nodes."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..qusr_train.checkpoints.format import CheckpointError, stored_format
from ..qusr_train.checkpoints.load import has_two_strengths, is_of_the_family, load_checkpoint
from ..qusr_train.checkpoints.nano_file import BUNDLED, FORMAT
from .native.comfy_types import MODEL, VAE
from .native.host import MODEL_FOLDER, MODEL_SUFFIXES, register_model_folder
from .native.nano import load_nano_models
from .native.places import model_file
from .native.schema import found_by, told
from .native.sockets import CATEGORY, UEMSocket
from .native.stable_diffusion import apply_checkpoint, apply_to_vae, loaded_uem

LORAS = "loras"  # ComfyUI's own kind of folder
NO_FILES = "(put a file into models/qusr)"
BUNDLED_NANO = "qusr-nano (bundled)"

register_model_folder()


def _checkpoints() -> list[str]:
    """The files in models/qusr, and those in models/loras that are of the family: people keep pisa_sr.pkl there."""
    names = folder_paths.get_filename_list(MODEL_FOLDER)
    others = [name for name in folder_paths.get_filename_list(LORAS) if name.endswith(MODEL_SUFFIXES)]
    return [
        *names,
        *(name for name in others if name not in names and _is_ours(folder_paths.get_full_path(LORAS, name))),
    ]


def _is_ours(path: str | None) -> bool:
    return path is not None and _known_file(path, Path(path).stat().st_mtime_ns)


@lru_cache(maxsize=4096)
def _known_file(path: str, changed: int) -> bool:
    """Remembered, since a folder of LoRA can be large, and the list is made again and again."""
    return is_of_the_family(path)


def _with_two_strengths(names: list[str]) -> list[str]:
    """Those of PiSA-SR: js/shown.js shows pixel and semantic for them only."""
    paths = {name: _path(name) for name in names}
    return [name for name, path in paths.items() if path and _known_pair(path, Path(path).stat().st_mtime_ns)]


@lru_cache(maxsize=4096)
def _known_pair(path: str, changed: int) -> bool:
    return has_two_strengths(path)


def _path(checkpoint: str) -> str | None:
    """Where a file of `_checkpoints` is; None if it is gone."""
    found = model_file(checkpoint)
    return found or (model_file(checkpoint, LORAS) if checkpoint.endswith(MODEL_SUFFIXES) else None)


def _nano_files() -> list[str]:
    """The files in models/qusr that hold a nano model."""
    names = folder_paths.get_filename_list(MODEL_FOLDER)
    return [name for name in names if stored_format(folder_paths.get_full_path(MODEL_FOLDER, name) or "") == FORMAT]


def _nano_path(checkpoint: str) -> str | None:
    return str(BUNDLED) if checkpoint == BUNDLED_NANO else model_file(checkpoint)


class QUSRNanoLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="QUSRNanoLoader",
            display_name="QUSR Nano Loader",
            category=CATEGORY,
            **found_by("load upscale model, super resolution model, upscaler, nano, seedvr2, esrgan"),
            description=(
                "Loads qusr-nano, the small 4x model that comes with this extension, or one that QUSR Train made. "
                "Nothing is downloaded."
            ),
            inputs=[
                io.Float.Input(
                    "lora_strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="Strength of the QUSR fine-tuning (LoRA) on nano's base. 1 as trained, 0 the plain base.",
                ),
                io.Combo.Input(
                    "checkpoint",
                    options=[BUNDLED_NANO, *_nano_files()],
                    default=BUNDLED_NANO,
                    optional=True,
                    tooltip="The bundled model, or your own from QUSR Train: nano files in models/qusr (R refreshes).",
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
    def fingerprint_inputs(cls, checkpoint: str = BUNDLED_NANO, **_: object) -> float:
        path = _nano_path(checkpoint)
        return Path(path).stat().st_mtime if path else 0.0

    @classmethod
    def validate_inputs(cls, checkpoint: str = BUNDLED_NANO) -> bool | str:
        """Before anything runs: a missing file must not be noticed after minutes."""
        path = _nano_path(checkpoint)
        if path is None:
            return _missing(checkpoint, MODEL_FOLDER)
        if stored_format(path) == FORMAT:
            return True
        return (
            f"checkpoint: {checkpoint} is not a qusr-nano model; QUSR Loader (SD 2.1) is for files of the other kinds"
        )

    @classmethod
    def execute(cls, lora_strength: float, checkpoint: str = BUNDLED_NANO) -> io.NodeOutput:
        path = _nano_path(checkpoint)
        if path is None:
            raise CheckpointError(_missing(checkpoint, MODEL_FOLDER))
        models = load_nano_models(lora_strength, path)
        return io.NodeOutput(models.model, models.clip, models.vae, models.uem)


def _strength(name: str, text: str) -> io.Float.Input:
    return io.Float.Input(name, default=1.0, min=0.0, max=2.0, step=0.05, tooltip=text)


class QUSRLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        files = _checkpoints()
        return io.Schema(
            node_id="QUSRLoader",
            display_name="QUSR Loader (SD 2.1)",
            category=CATEGORY,
            **found_by(
                "super resolution model, load upscale model, pisa-sr, pisasr, osediff, "
                "sd 2.1 super resolution, seedvr2, supir, lora"
            ),
            description=(
                "Puts a QUSR, PiSA-SR, OSEDiff or CODSR file from models/qusr onto SD 2.1-base. The model then "
                "restores in one step, here or in SamplerCustomAdvanced."
            ),
            inputs=[
                io.Model.Input("model", tooltip="SD 2.1-base (512 px), from Load Checkpoint. No other base fits."),
                told(
                    io.Combo.Input(
                        "checkpoint",
                        options=files or [NO_FILES],
                        tooltip="A file in models/qusr or models/loras: .safetensors of QUSR, or the authors' .pkl.",
                    ),
                    two_strengths=_with_two_strengths(files),
                ),
                _strength(
                    "strength",
                    "Scale of what the file adds to SD 2.1 (LoRA; CODSR: its photo guide too). 1 as trained.",
                ),
                _strength("pixel", "PiSA-SR only: pixel-level strength. Other than 1 takes a second pass."),
                _strength("semantic", "PiSA-SR only: semantic strength, more is crisper. Other than 1: second pass."),
                io.Vae.Input("vae", optional=True, tooltip="Needed for OSEDiff and CODSR, which change its encoder."),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="One-step denoiser."),
                UEMSocket.Output(
                    display_name="uem",
                    tooltip="Uncertainty module and how its noise is made; only QUSR files have a module.",
                ),
                io.Vae.Output(
                    display_name="vae", tooltip="The VAE to encode with; unchanged except for OSEDiff and CODSR."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str, **_: object) -> float:
        path = _path(checkpoint)
        return Path(path).stat().st_mtime if path else 0.0

    @classmethod
    def validate_inputs(cls, checkpoint: str) -> bool | str:
        """Before anything runs: a missing file must not be noticed after minutes."""
        path = _path(checkpoint)
        if path is None:
            return _missing(checkpoint, MODEL_FOLDER, LORAS)
        return _is_nano(checkpoint) if stored_format(path) == FORMAT else True

    @classmethod
    def execute(
        cls, model: MODEL, checkpoint: str, strength: float, pixel: float, semantic: float, vae: VAE | None = None
    ) -> io.NodeOutput:
        path = _path(checkpoint)
        if path is None:
            raise CheckpointError(_missing(checkpoint, MODEL_FOLDER, LORAS))
        if stored_format(path) == FORMAT:
            raise CheckpointError(_is_nano(checkpoint))
        content = load_checkpoint(path)
        return io.NodeOutput(
            apply_checkpoint(model, content, strength, pixel, semantic),
            loaded_uem(model, content),
            apply_to_vae(vae, content, strength),
        )


def _missing(checkpoint: str, *kinds: str) -> str:
    searched = ", ".join(folder for kind in kinds for folder in folder_paths.get_folder_paths(kind))
    return (
        f"checkpoint: {str(checkpoint)[:100]} is not there (searched {searched}); put a QUSR .safetensors or .pkl file "
        "into one of these folders and press R to refresh"
    )


def _is_nano(checkpoint: str) -> str:
    return (
        f"checkpoint: {checkpoint} is a qusr-nano model, which needs no SD 2.1-base; choose it in QUSR Nano Loader "
        "(input checkpoint) instead"
    )
