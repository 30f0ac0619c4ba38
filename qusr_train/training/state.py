"""The state of a training run on disk: written whole, checked when it is read back."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import pickle
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, RunError
from ..files import is_regular, write_whole
from ..out_of_memory import is_out_of_memory
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

DAMAGED = (
    OSError, EOFError, RuntimeError, LookupError, TypeError, ValueError, AttributeError, AssertionError, OverflowError,
    MemoryError, ImportError, pickle.UnpicklingError, struct.error,
)  # fmt: skip
"""What torch and pickle raise on a file that is cut or changed."""


class CheckpointNotWritten(RunError):
    """A checkpoint could not be written, most often because the disk is full."""


@contextlib.contextmanager
def writing_checkpoint(state_file: Path, step: int) -> Iterator[None]:
    """Around the writing of a checkpoint: trouble with the disk says what is left and what to do.

    Raises:
        CheckpointNotWritten: from the OSError or RuntimeError inside, unless that is about memory.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        kept = f"{state_file} still holds the last good one" if state_file.exists() else "there is none yet"
        raise CheckpointNotWritten(
            f"the checkpoint of step {step} could not be written to {state_file.parent} ({error}); {kept}. Free some "
            "space and run the same command again"
        ) from error


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
    content["digest"] = _digest(content)
    with write_whole(path) as temporary:
        torch.save(content, temporary)
        _keep(path)


def previous_state(path: Path) -> Path:
    """Where the state before the newest one is kept."""
    return path.with_name(f"previous.{path.name}")


def _keep(path: Path) -> None:
    """Give the state that is about to be replaced a second name; it is never without a name in between."""
    if not path.is_file():
        return
    with write_whole(previous_state(path)) as temporary:
        try:
            os.link(path, temporary)
        except OSError:  # a disk without links
            shutil.copyfile(path, temporary)


def _digest(content: Any) -> str:
    """SHA-256 of everything in a state, in its own order."""
    digest = hashlib.sha256()
    waiting = [content]
    while waiting:
        thing = waiting.pop()
        if isinstance(thing, Tensor):
            digest.update(f"{thing.dtype} {tuple(thing.shape)}".encode())
            digest.update(thing.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(thing, dict):
            digest.update(f"dict {len(thing)}".encode())
            waiting += [item for pair in thing.items() for item in pair]
        elif isinstance(thing, (list, tuple)):
            digest.update(f"list {len(thing)}".encode())
            waiting += thing
        else:
            digest.update(f"{type(thing).__name__} {thing!r}".encode())
    return digest.hexdigest()


def _read(path: Path) -> tuple[TrainState, dict[str, Any], dict[str, Any]]:
    """A file's state, the settings it belongs to, and those that may change. Raises ValueError: damaged in any way."""
    if not is_regular(path):
        raise ValueError("not a file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}")
        digest = content.pop("digest", None)  # none: written before there was one
        if digest is not None and digest != _digest(content):
            raise ValueError("its content is not what was written")
        stored = json.loads(content.pop("config"))
        before = json.loads(content.pop("changeable", "{}"))
        if not isinstance(stored, dict) or not isinstance(before, dict):
            raise ValueError("its settings are none")
        state = TrainState(**content)
    except DAMAGED as error:
        raise ValueError(f"{type(error).__name__}: {error}"[:300]) from error
    sound = type(state.step) is int and state.step >= 0 and isinstance(state.optimizer, dict)
    weights = [state.model, state.average]
    if not sound or not all(isinstance(part, dict) and all(map(_is_finite, part.values())) for part in weights):
        raise ValueError("its step, optimiser or weights are none, or not finite")
    return state, stored, before


def _is_finite(value: Any) -> bool:
    return isinstance(value, Tensor) and bool(torch.isfinite(value).all())


def _instead(path: Path) -> str:
    earlier = previous_state(path)
    try:
        state, *_ = _read(earlier)
    except ValueError:
        return "delete it to start again"
    return (
        f"the one before it is good: rename {earlier.name} to {path.name} to go on from step {state.step}, or delete "
        "both to start again"
    )


def load_state(path: Path, config: TrainConfig, joint_batch: int) -> TrainState:
    """Read a run's state.

    Raises:
        InputError: damaged, or of other settings. Where the state before it is good, it is offered.
    """
    try:
        state, stored, before = _read(path)
    except ValueError as error:
        raise InputError(f"{path}: damaged or not a training state ({error}); {_instead(path)}") from error
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
