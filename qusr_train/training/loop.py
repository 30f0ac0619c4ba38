"""The training loop, the same for nano and SD 2.1-base: resumes, survives, runs on one process or many.

`nano.py` and `sd21.py` know the models and losses, `config.py` every setting.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.samples import Batch
from ..errors import InputError, RunError
from ..out_of_memory import is_out_of_memory
from .average import WeightAverage
from .batches import remaining_batches
from .config import TrainConfig
from .lock import run_lock
from .needs import require_for_training
from .optimizer import learning_rate_factor, make_optimizer
from .recipe import data_digest, settings, versions, write_card
from .state import (
    DAMAGED,
    TrainState,
    load_state,
    random_state,
    restore_random_state,
    save_state,
    writing_checkpoint,
)
from .step import StepNoise, StepResult
from .task import Task, make_task
from .tracking import Tracking, sample_sheet
from .validation import Validation
from .watch import NaNWatch, RunningMeans

log = logging.getLogger(__name__)

PATIENCE = timedelta(hours=12)
"""How long processes wait for each other, while one encodes a large data set or validates."""


class TrainingStopped(RunError):
    """The run was asked to stop and has saved its state."""


def train(config: TrainConfig, task: Task | None = None, should_stop: Callable[[], bool] = lambda: False) -> Path:
    """Run one stage to its end; goes on where an earlier run in `out` stopped.

    Args:
        config: settings.
        task: instead of the one that `config.stage` names.
        should_stop: asked after every step; True saves and stops.

    Returns:
        The finished model's path, `OUT/STAGE.safetensors`.

    Raises:
        MissingPackages: a package that this training needs is not installed.
        ValueError: no usable photos, or a checkpoint of another configuration in `out`.
        RuntimeError: the loss became NaN.
        CheckpointNotWritten: the disk is full; the last good checkpoint is still there.
        TrainingStopped: `should_stop` said so.
    """
    require_for_training(config)
    with run_lock(Path(config.out)):
        return _Run(config, task).to_end(should_stop)


class _Run:
    """One process of a training run."""

    def __init__(self, config: TrainConfig, task: Task | None) -> None:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
        from accelerate.utils import InitProcessGroupKwargs, set_seed

        from .tracking import choose_tracker

        self.config, self.out = config, Path(config.out)
        self.out.mkdir(parents=True, exist_ok=True)
        AcceleratorState._reset_state(True)  # a second run in one process may ask for another precision
        tracker = choose_tracker(config)
        self.accelerator = Accelerator(
            mixed_precision=config.precision,
            gradient_accumulation_steps=config.accumulation,
            log_with=None if tracker == "none" else tracker,
            project_dir=str(self.out / "logs"),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )
        if config.precision == "fp16" and self.accelerator.device.type == "cpu":  # accelerate would run float32 unasked
            raise InputError("fp16 needs a GPU; on the CPU use bf16 or no", field="precision")
        self.main = self.accelerator.is_main_process
        set_seed(config.seed)
        self.task = task or make_task(config)
        self.task.prepare(self.accelerator.device)
        model = self.task.model
        self.names = {name for name, p in model.named_parameters() if p.requires_grad}
        self.optimizer: Any = make_optimizer(model, config)
        self.joint_batch = config.batch_size * config.accumulation * self.accelerator.num_processes
        self.state_file = self.out / f"{config.stage}.state.pt"
        self.finished = self.out / f"{config.stage}.safetensors"
        self.first = 0
        self.random: dict[str, Tensor] = {}
        self.average = WeightAverage({k: v for k, v in model.named_parameters() if k in self.names}, config.ema)
        state = load_state(self.state_file, config, self.joint_batch) if self.state_file.exists() else None
        if state:
            if self.names - state.model.keys():
                raise InputError(f"{self.state_file}: belongs to a model of another shape; delete it to start again")
            try:
                if self.task.adversary and state.adversary:
                    self.task.adversary.load_state(state.adversary)
                model.load_state_dict({k: v for k, v in state.model.items() if k in self.names}, strict=False)
                self.optimizer.load_state_dict(state.optimizer)
            except DAMAGED as error:
                reason = f"{self.state_file}: does not fit the model ({str(error)[:300]}); delete it to start again"
                raise InputError(reason) from error
            self.first, self.random = state.step, state.random
            self.average.resume(state.average)
            log.info("resuming at step %d", self.first)
        self.means = RunningMeans(state.shown if state else {})
        self.nan = NaNWatch(self.accelerator, self.out)
        self.validation = Validation(config, self.first) if config.validate else None
        self.about = {"settings": settings(config), "versions": versions()}
        if config.compile:
            self.task.compile()
        samples = self.task.dataset(config.steps * self.joint_batch)
        on_gpu = self.accelerator.device.type == "cuda"
        loader = remaining_batches(samples, self.first * self.joint_batch, config, on_gpu)
        self.wrapped, self.optimizer, self.loader = self.accelerator.prepare(model, self.optimizer, loader)
        scaler = getattr(self.accelerator, "scaler", None)
        if state and state.scaler and scaler is not None:
            scaler.load_state_dict(state.scaler)
        self.average.to(self.accelerator.device)
        self.tracking = Tracking(self.accelerator, config, self.first) if self.main else None
        self.about["data"] = data_digest(config) if self.main else {}

    def to_end(self, should_stop: Callable[[], bool]) -> Path:
        from tqdm.auto import tqdm

        config, accelerator = self.config, self.accelerator
        bar = tqdm(total=config.steps, initial=self.first, disable=not self.main, mininterval=10)
        self.started = self.last_log = time.monotonic()
        if self.first < config.steps:  # nothing to do for a finished run
            for index, collated in enumerate(self.loader, start=self.first * config.accumulation):
                if self.random:
                    restore_random_state(self.random)
                    self.random = {}
                step, part = divmod(index, config.accumulation)
                result = self._batch(step, part, Batch(*collated))
                if part < config.accumulation - 1:
                    continue
                self.average.update(step, dict(self.task.model.named_parameters()))
                bar.update()
                done = step + 1
                logging_now = done % config.log_every == 0 or done == config.steps
                if logging_now:
                    self._log(done, result, bar)
                self._sample(done, Batch(*collated), result)
                stopping = self._anyone(should_stop, logging_now)
                if done % config.save_every == 0 or done == config.steps or stopping:
                    self.nan.look()
                    self._save(done)
                if self.validation and (done % config.validate_every == 0 or done == config.steps):
                    self.nan.look()
                    self._validate(self.validation, done)
                if stopping and done < config.steps:
                    bar.close()
                    accelerator.end_training()
                    raise TrainingStopped(f"stopped at step {done}; the same command goes on from there")
        bar.close()
        if self.main and not self.finished.exists():  # lost after the last step
            self.task.export(self.average.weights, self.finished, self._summary(max(self.first, config.steps)))
        accelerator.wait_for_everyone()
        accelerator.end_training()  # on all processes: it ends their group as well as the trackers
        return self.finished

    def _batch(self, step: int, part: int, batch: Batch) -> StepResult:
        config, accelerator = self.config, self.accelerator
        if part == 0:
            for group in self.optimizer.param_groups:
                group["lr"] = group["share"] * config.learning_rate * learning_rate_factor(step, config)
        place = (part * accelerator.num_processes + accelerator.process_index) * config.batch_size
        noise = StepNoise(config.seed, step, place, len(batch.x_lq), self.joint_batch)
        try:
            with accelerator.accumulate(self.wrapped):
                result = self.task.step(self.wrapped, batch, noise, accelerator.autocast)
                self.nan.put(step, result.loss, batch)
                accelerator.backward(result.loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_([p for p in self.wrapped.parameters() if p.requires_grad], 1.0)
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
                if self.task.adversary and accelerator.sync_gradients:
                    self.task.adversary.update(learning_rate_factor(step, config), accelerator)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise RunError(
                f"out of memory on {accelerator.device} at step {step}; halve batch_size and double accumulation (the "
                "step stays the same), or set gradient_checkpointing"
            ) from error
        self.means.add(result.figures)
        return result

    def _anyone(self, should_stop: Callable[[], bool], logging_now: bool) -> bool:
        """Whether any process was asked to stop: they must stop at the same step, or one waits for the others forever.

        Several processes ask each other only at steps that are logged, since the answer waits for the device.
        """
        if self.accelerator.num_processes == 1:
            return should_stop()
        if not logging_now:
            return False
        flag = torch.tensor(float(should_stop()), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, reduction="sum").item())

    def _log(self, done: int, result: StepResult, bar: Any) -> None:
        config = self.config
        if self.tracking is None:
            return
        bar.set_postfix({k: f"{v:.4f}" for k, v in self.means.read().items()}, refresh=False)
        now = time.monotonic()
        steps = (done - self.first) % config.log_every or config.log_every
        self.tracking.log(
            done,
            {
                **{key: value.item() for key, value in result.figures.items()},
                "learning_rate": config.learning_rate * learning_rate_factor(done - 1, config),
                "images_per_second": round(steps * self.joint_batch / max(1e-9, now - self.last_log), 3),
            },
        )
        self.last_log = now

    def _sample(self, done: int, batch: Batch, result: StepResult) -> None:
        config = self.config
        if self.tracking and config.sample_every and done % config.sample_every == 0 and result.x_hq is not None:
            self.tracking.sample(done, sample_sheet(batch.x_lq, result.x_hq, batch.x_gt, result.u))

    def _validate(self, validation: Validation, done: int) -> None:
        """Restore and judge the validation pictures; export when it is one of the best."""
        accelerator = self.accelerator
        # Sharded weights are gathered from all processes, which therefore restore the same picture together.
        share = (0, 1) if self.config.shard else (accelerator.process_index, accelerator.num_processes)
        with self.task.restorer(self.average.weights) as restorer, accelerator.autocast():
            shown = validation.restore(restorer, *share)
        accelerator.wait_for_everyone()
        if self.tracking is not None:
            if validation.judge(done, shown, self.tracking):
                self.task.export(self.average.weights, validation.path(done), self._summary(done))
            validation.forget_worse()
            write_card(self.out / "README.md", self.finished.name, self._summary(done))
        accelerator.wait_for_everyone()

    def _summary(self, done: int) -> dict[str, Any]:
        config = self.config
        figures = {key: round(value, 5) for key, value in self.means.read().items()}
        best = {"validation": self.validation.best()} if self.validation else {}
        return {
            "steps": done, "batch_size": self.joint_batch, "patch": config.patch, "seed": config.seed,
            "learning_rate": config.learning_rate, **figures, **self.about, **best,
        }  # fmt: skip

    def _save(self, done: int) -> None:
        """Model first, then state: a kill between the two repeats some steps, and loses none."""
        if not self.main:
            return
        with writing_checkpoint(self.state_file, done):
            summary = self._summary(done)
            self.task.export(self.average.weights, self.finished, summary)
            scaler = getattr(self.accelerator, "scaler", None)
            state = TrainState(
                step=done,
                model={k: v.detach() for k, v in self.task.model.named_parameters() if k in self.names},
                optimizer=self.optimizer.state_dict(),
                average=self.average.weights,
                shown=self.means.read(),
                scaler=scaler.state_dict() if scaler is not None else {},
                random=random_state(),
                adversary=self.task.adversary.state() if self.task.adversary else {},
            )
            save_state(self.state_file, state, self.config, self.joint_batch)
            write_card(self.out / "README.md", self.finished.name, summary)
            brief = {key: value for key, value in summary.items() if not isinstance(value, dict)}
            line = {**brief, "seconds": round(time.monotonic() - self.started)}
            with (self.out / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
