"""The state of a training run on disk: written whole, checked when it is read back."""

from __future__ import annotations

import dataclasses
import json
import logging
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, RunError
from ..files import write_whole
from .config import TrainConfig

log = logging.getLogger(__name__)

# What may differ between a run and its continuation; everything else would mix two different runs.
_FREE_TO_CHANGE = {
    "photos", "more_photos", "pairs", "camera_pairs", "out", "steps", "workers", "save_every", "log_every",
    "sample_every", "tracker", "precision", "gradient_checkpointing", "shard", "compile", "lpips_backbone",
    "batch_size", "accumulation", "validate", "validate_every", "validate_metrics", "best", "keep",
    "learning_rate", "schedule", "hold", "warmup",
}  # fmt: skip

_TOLD = ("steps", "learning_rate", "schedule", "hold", "warmup", "precision")
"""Of those, the ones whose change is worth a line in the log."""


class CheckpointNotWritten(RunError):
    """A checkpoint could not be written, most often because the disk is full."""


@dataclass
class TrainState:
    """Everything a resumed run needs to go on as if it had never stopped."""

    step: int
    """Optimiser steps done."""
    model: dict[str, Tensor]
    """The trained parameters (older files: all)."""
    optimizer: dict[str, Any]
    average: dict[str, Tensor]
    """Averaged parameters."""
    shown: dict[str, float] = dataclasses.field(default_factory=dict)
    """Running means for the log."""
    scaler: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Loss scale (fp16)."""
    random: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    """torch's random states. No step draws from them, but a library might."""
    adversary: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The discriminator and its optimiser, where there is one."""


def _identity(config: TrainConfig, joint_batch: int) -> dict[str, Any]:
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in _FREE_TO_CHANGE}
    return json.loads(json.dumps({**settings, "joint_batch": joint_batch}))


def random_state() -> dict[str, Tensor]:
    """torch's random states on this machine."""
    state = {"cpu": torch.get_rng_state()}
    return {**state, "cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else state


def restore_random_state(state: dict[str, Tensor]) -> None:
    if "cpu" in state:
        torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def save_state(path: Path, state: TrainState, config: TrainConfig, joint_batch: int) -> None:
    """Write a run's state, whole or not at all."""
    content = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
    content["config"] = json.dumps(_identity(config, joint_batch), sort_keys=True)
    content["changeable"] = json.dumps({name: getattr(config, name) for name in _TOLD})
    with write_whole(path) as temporary:
        torch.save(content, temporary)


def load_state(path: Path, config: TrainConfig, joint_batch: int) -> TrainState:
    """Read a run's state. Raises ValueError when it is damaged or belongs to other settings."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        stored = json.loads(content.pop("config"))
        before = json.loads(content.pop("changeable", "{}"))
        state = TrainState(**content)
    except (OSError, EOFError, RuntimeError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
        raise InputError(f"{path}: damaged or not a training state ({error}); delete it to start again") from error
    current = _identity(config, joint_batch)
    if "joint_batch" not in stored:  # written before several processes could share a step
        stored["joint_batch"] = stored.pop("batch_size", None)
    defaults = _identity(TrainConfig(), joint_batch)  # a setting that did not exist then had its default
    stored = {**defaults, **{key: value for key, value in stored.items() if key in defaults}}
    different = sorted(key for key in current if current[key] != stored[key])
    if different:
        raise InputError(
            f"{path}: belongs to a run with other settings ({', '.join(different)}); use another folder, or delete it "
            "to start again"
        )
    for name, value in before.items():
        if value != getattr(config, name):
            log.info("%s: %s until step %d, %s from now on", name, value, state.step, getattr(config, name))
    return state
