"""Training from a graph: a process of its own, watched from the node."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import comfy.model_management
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..qusr_train.checkpoints.nano_file import BUNDLED
from ..qusr_train.files import write_whole
from ..qusr_train.images.read import read_image
from ..qusr_train.images.write import to_picture
from ..qusr_train.packages import MissingPackages
from ..qusr_train.training.config import TrainConfig, load_config_file
from ..qusr_train.training.needs import require_for_training
from ..qusr_train.training.plot import loss_plot
from ..qusr_train.training.tracking import SAMPLES, metrics_file, read_metrics, stop_file
from .native.errors import input_names, without_flags
from .native.host import checkpoint_interrupt, image_out, progress, register_model_folder
from .native.places import (
    folder_to_read,
    input_folders,
    keep_model,
    model_roots,
    place_to_read,
    run_folder,
    run_folders,
)
from .native.schema import advanced, found_by
from .native.sockets import CATEGORY

ROOT = Path(__file__).resolve().parents[1]
NANO, SD21 = "qusr-nano", "SD 2.1-base"
RECIPES = {NANO: "nano_qusr", SD21: "sd21"}
PATIENCE = 60  # seconds that a process may take to save after Cancel


# What `more` may hold. Not in it: what names files or folders, sends pictures to a service, or has a widget of its own.
MORE = frozenset({
    "learning_rate", "schedule", "warmup", "weight_decay", "beta2", "uem_learning_rate", "ema", "accumulation",
    "pixel_loss", "gradient_weight", "ssim_weight", "l2_weight", "lpips_weight", "csd_weight", "uncertainty_weight",
    "uncertainty_alpha", "uncertainty_norm", "lpips_backbone", "csd_guidance", "csd_timesteps", "csd_prompt",
    "csd_negative_prompt", "rank", "uem_channels", "noise_variant", "noise_k", "noise_m", "noise_p", "noise_grain",
    "noise_gradient", "photo_factors", "degradation", "sharpen_targets", "precision", "optimizer",
    "gradient_checkpointing", "workers", "save_every", "log_every", "sample_every", "tracker", "hold",
    "feature_weight", "adversarial_weight", "adversarial_start", "adversarial_ramp", "adversarial_crop",
    "discriminator_learning_rate", "add_error_map", "balance_patches", "upright", "continue_lora", "add_film",
    "steering_weight",
})  # fmt: skip
MOST = {"workers": 16, "rank": 256, "uem_channels": 512, "accumulation": 1024}
TRACKERS = ("auto", "tensorboard", "none")


def _more(text: str) -> dict[str, Any]:
    """The settings in `more`, if a graph may give them.

    Raises:
        ValueError: not a JSON object, or a setting that is not in `MORE`.
    """
    try:
        extra = json.loads(text) if text.strip() else {}
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"more: expected a JSON object with training settings ({error})") from error
    if not isinstance(extra, dict):
        raise ValueError(f"more: expected a JSON object with training settings, but got {text[:100]!r}")
    refused = [name for name in extra if name not in MORE]
    if refused:
        raise ValueError(
            f"more: a workflow may not set {', '.join(refused)[:200]}; it may set {', '.join(sorted(MORE))}. For "
            "everything else use the command line, python -m qusr_train train"
        )
    for name, most in MOST.items():
        if isinstance(extra.get(name), (int, float)) and extra[name] > most:
            raise ValueError(f"more: {name} may be at most {most}, but got {extra[name]}")
    if extra.get("tracker", TRACKERS[0]) not in TRACKERS:
        raise ValueError(f"more: tracker may be {', '.join(TRACKERS)} in a workflow, but got {extra['tracker']!r}")
    if extra.get("lpips_backbone"):
        extra["lpips_backbone"] = str(place_to_read("more: lpips_backbone", extra["lpips_backbone"], model_roots()))
    return extra


def _settings(model: str, photos: str, base_folder: str, out: Path, changes: dict[str, Any], more: str) -> TrainConfig:
    extra = _more(more)
    where = {"photos": str(folder_to_read("photos", photos, input_folders())), "out": str(out)}
    if model == SD21:
        where["init"] = str(folder_to_read("base_folder", base_folder, model_roots()))
    else:
        where["init"] = str(BUNDLED)
    return TrainConfig.from_mapping({**load_config_file(RECIPES[model]), **extra, **where, **changes})


def _environment() -> dict[str, str]:
    cpu = comfy.model_management.get_torch_device().type == "cpu"
    return {**os.environ, "ACCELERATE_USE_CPU": "true"} if cpu else dict(os.environ)


def _stop(process: subprocess.Popen[bytes], ask: Path) -> None:
    """Ask the process to save and stop; kill it when it does not.

    A file asks, since `terminate` kills at once on Windows.
    """
    if process.poll() is None:
        ask.touch()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def train_in_process(config: TrainConfig) -> None:
    """Run `python -m qusr_train train` until it ends, with progress, a preview of the curves, and Interrupt.

    Raises:
        RuntimeError: the training failed; the message ends with its last words.
    """
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    settings = out / "config.json"
    values = {name: getattr(config, name) for name in config.__dataclass_fields__}
    with write_whole(settings) as temporary:
        temporary.write_text(json.dumps(values, indent=1), encoding="utf-8")
    command = [sys.executable, "-m", "qusr_train", "train", str(settings)]
    ask = stop_file(out, config.stage)
    ask.unlink(missing_ok=True)
    bar, shown = progress(config.steps), -1
    with (out / "train.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=_environment(), stdout=log, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                checkpoint_interrupt()
                lines = read_metrics(metrics_file(out, config.stage))
                if lines and lines[-1]["step"] != shown:
                    shown = lines[-1]["step"]
                    bar.update_absolute(shown, config.steps, ("JPEG", to_picture(loss_plot(lines)), 512))
                time.sleep(0.3)
        finally:
            _stop(process, ask)
    if process.returncode:
        words = (out / "train.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        ending = without_flags(" ".join(words[-3:]), init="base_folder")
        raise RuntimeError(f"training failed; its log is {out / 'train.log'}. It ended with: {ending}")


def _samples(out: Path, stage: str) -> Tensor:
    """The newest sample picture, (1, H, W, 3); a single black pixel before there is one."""
    pictures = sorted((out / SAMPLES).glob(f"{stage}-*.png"))
    if not pictures:
        return torch.zeros(1, 1, 1, 3)
    return image_out(read_image(pictures[-1]).rgb)


class QUSRTrain(io.ComfyNode):
    @classmethod
    @advanced("more")
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="QUSRTrain",
            display_name="QUSR Train (experimental)",
            category=CATEGORY,
            **found_by("train lora, fine-tune, finetune, super resolution training"),
            description=(
                "Fine-tunes LoRA and UEM on a folder of photos, in a process of its own, and puts the file into "
                "models/qusr. Cancel saves; the same settings go on from there."
            ),
            is_experimental=True,
            is_output_node=True,
            inputs=[
                io.String.Input(
                    "photos",
                    default="",
                    tooltip=(
                        "A folder with sharp photos in ComfyUI's input folder, or in a folder that you listed in "
                        "user/qusr/folders.txt."
                    ),
                ),
                io.String.Input(
                    "name",
                    default="my-qusr",
                    tooltip="Name of the run and of the file in models/qusr; a taken name gets a number.",
                ),
                io.Combo.Input(
                    "model",
                    options=[NANO, SD21],
                    default=NANO,
                    tooltip="What to fine-tune. qusr-nano trains on a CPU, SD 2.1-base needs a GPU with about 24 GB.",
                ),
                io.Int.Input("steps", default=450, min=1, max=1_000_000, tooltip="Optimiser steps in all."),
                io.Int.Input("batch_size", default=4, min=1, max=256, tooltip="Patches per step."),
                io.Int.Input("patch", default=192, min=64, max=1024, step=16, tooltip="Side of a patch in pixels."),
                io.Int.Input("seed", default=1, min=0, max=2**31 - 1, tooltip="Seed of weights, crops and noise."),
                io.String.Input(
                    "base_folder",
                    default="",
                    optional=True,
                    tooltip=(
                        "For SD 2.1-base: its folder in diffusers form (unet, vae, text_encoder inside), below "
                        "ComfyUI's models folder."
                    ),
                ),
                io.String.Input(
                    "more",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip='Further settings of `qusr_train train` as JSON, for example {"learning_rate": 1e-4}.',
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="checkpoint",
                    tooltip="The file's name in models/qusr: nano for QUSR Nano Loader, SD 2.1 for QUSR Loader.",
                ),
                io.String.Output(display_name="run", tooltip="The run's folder, for QUSR Loss Plot."),
                io.Image.Output(display_name="samples", tooltip="Newest input, result, target, uncertainty."),
            ],
        )

    @classmethod
    def validate_inputs(cls, model: str, more: str = "") -> bool | str:
        """Before anything runs: packages that are missing must not be noticed after minutes."""
        if model not in RECIPES:
            return f"model: expected {' or '.join(RECIPES)}, but got {model!r}"
        somewhere = dict.fromkeys(("photos", "out", "init"), "not asked yet")
        try:
            recipe = {**load_config_file(RECIPES[model]), **_more(more), **somewhere}
            require_for_training(TrainConfig.from_mapping(recipe))
        except (ValueError, MissingPackages) as error:
            return without_flags(str(error))
        return True

    @classmethod
    def execute(
        cls, photos: str, name: str, model: str, steps: int, batch_size: int, patch: int, seed: int,
        base_folder: str = "", more: str = "",
    ) -> io.NodeOutput:  # fmt: skip
        out = run_folder(name)
        changes = {"steps": steps, "batch_size": batch_size, "patch": patch, "seed": seed}
        with input_names(init="base_folder"):
            config = _settings(model, photos, base_folder, out, changes, more)
        require_for_training(config)
        register_model_folder()
        comfy.model_management.unload_all_models()  # the other process needs the memory
        train_in_process(config)
        target = keep_model(out / f"{config.stage}.safetensors", name)
        samples = image_out(_samples(out, config.stage).movedim(-1, 1))
        return io.NodeOutput(target.name, str(out), samples, ui=ui.PreviewImage(samples, cls=cls))


def _metrics_files(run: str) -> list[Path]:
    return list(folder_to_read("run", run, run_folders()).glob("*.metrics.jsonl"))


class QUSRLossPlot(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="QUSRLossPlot",
            display_name="QUSR Loss Plot (experimental)",
            category=CATEGORY,
            **found_by("loss curve, loss graph, training progress"),
            description="The curves of a training run as a picture; also while it is still running elsewhere.",
            is_experimental=True,
            is_output_node=True,
            inputs=[
                io.String.Input(
                    "run",
                    tooltip=(
                        "The run's folder: QUSR Train's output, or another one in ComfyUI's output folder or in a "
                        "folder that you listed in user/qusr/folders.txt."
                    ),
                ),
            ],
            outputs=[io.Image.Output(display_name="plot")],
        )

    @classmethod
    def fingerprint_inputs(cls, run: str) -> float:
        try:
            files = _metrics_files(run)
        except ValueError:
            return float("nan")  # execute says what is wrong
        return max((path.stat().st_mtime for path in files), default=0.0)

    @classmethod
    def execute(cls, run: str) -> io.NodeOutput:
        found = sorted(_metrics_files(run), key=lambda path: path.stat().st_mtime)
        if not found:
            raise ValueError(f"run: no training has logged anything in {run!r}; give the folder of a run")
        plot = image_out(loss_plot(read_metrics(found[-1]))[None])
        return io.NodeOutput(plot, ui=ui.PreviewImage(plot, cls=cls))
