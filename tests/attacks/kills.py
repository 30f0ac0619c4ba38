"""Training that is killed at random moments, and right inside its writes, must end as if nothing had happened.

Each run is a child that is forked after the imports, so that it starts in milliseconds; a kill is the kernel's own.
Needs Linux or macOS: `os.fork` and the module `resource` are not on Windows (`test_kills.py` is skipped there).
"""

from __future__ import annotations

import importlib
import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from qusr_train.model.tokenizer import encode_tokens
from qusr_train.training.config import TrainConfig
from qusr_train.training.loop import train

STEPS = 5
WAYS = ("time", "between", "inside")
"""Of being killed: at any moment of the run, at one of the operations that write its files, in the middle of one."""


@dataclass
class Count:
    """What came of it."""

    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys(WAYS, 0))
    runs: int = 0
    """That went to their end, each after one kill or more."""
    different: list[str] = field(default_factory=list)
    """Runs that ended otherwise than the one in peace, and how."""
    left: int = 0
    """Temporary files in the folders of the runs that ended."""


def configuration(folder: Path, init: Path, out: str) -> TrainConfig:
    """A few steps of stage `qusr` on a tiny model, with a checkpoint after every one."""
    return TrainConfig(
        photos=str(folder / "photos"), out=str(folder / out), stage="qusr", init=str(init), steps=STEPS, batch_size=1,
        patch=64, warmup=1, save_every=1, log_every=1, sample_every=0, precision="no", tracker="none", workers=0,
        rank=2, photo_factors=(1.0,),
    )  # fmt: skip


def _die_at_operation(out: Path, number: int) -> None:
    """Kill this process at the nth thing that it does to a file in its folder: open, link, rename, remove."""
    left, place = [number], str(out)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("open", "os.link", "os.rename", "os.remove", "os.chmod") and place in repr(arguments[:2]):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def _die_inside_a_write(step: int, size: int) -> Callable[[], bool]:
    """From a step on, let the kernel kill this process when a file that it writes passes a size."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it; the default is to end at once
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    steps = iter(range(1, 10_000))

    def asked() -> bool:
        if next(steps) == step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        return False

    return asked


def _child(config: TrainConfig, prepare: Callable[[], Callable[[], bool] | None]) -> int:
    """Fork a training. Returns its process id; its exit status is 0 only when it came to its end."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        silent = os.open(Path(config.out).with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        asked = prepare()
        train(config, should_stop=asked or (lambda: False))
        status = 0
    except Exception as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(status)


def _wait(process: int, seconds: float | None = None) -> int:
    """The exit status of a child, which is killed after some seconds; below 0 it is the signal."""
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        found, status = os.waitpid(process, os.WNOHANG if deadline else 0)
        if found:
            return os.waitstatus_to_exitcode(status)
        if deadline and time.monotonic() >= deadline:
            os.kill(process, signal.SIGKILL)
            deadline = None
        else:
            time.sleep(0.001)


def _result(out: Path) -> dict[str, Any]:
    """Everything that a run leaves: model, state (bit for bit), curves, and the names of its files."""
    lines = [json.loads(line) for line in (out / "qusr.metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    state = torch.load(out / "qusr.state.pt", weights_only=True)
    previous = torch.load(out / "previous.qusr.state.pt", weights_only=True)
    return {
        "model": (out / "qusr.safetensors").read_bytes(),
        "state": state["digest"],
        "state before": previous["digest"],
        "curves": [{key: value for key, value in line.items() if key != "images_per_second"} for line in lines],
        "files": sorted(path.name for path in out.iterdir()),
    }


def kills(folder: Path, init: Path, count: int, seed: int = 0) -> Count:
    """Kill trainings `count` times, let each come to its end, and compare it with one that was left in peace.

    Args:
        folder: an empty one.
        init: a small nano model to fine-tune.
        count: of kills.
        seed: of what is done when.
    """
    for module in ("accelerate.utils", "accelerate.state", "tqdm.auto", "qusr_train.training.nano", "torch._dynamo"):
        importlib.import_module(module)  # once, instead of in every child
    encode_tokens(["warm"])
    torch.set_num_threads(1)  # what a fork can carry on with
    os.environ["ACCELERATE_USE_CPU"] = "true"
    (folder / "photos").mkdir()
    Image.effect_noise((96, 96), 40).convert("RGB").save(folder / "photos" / "a.png")
    peace = configuration(folder, init, "peace")
    started = time.monotonic()
    if _wait(_child(peace, lambda: None)):
        raise RuntimeError((folder / "peace.log").read_text(encoding="utf-8"))
    length = time.monotonic() - started
    expected, largest = _result(folder / "peace"), max(path.stat().st_size for path in (folder / "peace").iterdir())
    chance, seen = random.Random(seed), Count()
    while sum(seen.kills.values()) < count:
        config = configuration(folder, init, f"run{seen.runs}")
        out = Path(config.out)
        for _ in range(chance.choice([1, 1, 1, 2, 3])):
            way = WAYS[sum(seen.kills.values()) % len(WAYS)]
            if way == "time":
                status = _wait(_child(config, lambda: None), length * chance.uniform(0.0, 1.0))
            elif way == "between":
                number = chance.randrange(8 * STEPS)
                status = _wait(_child(config, lambda number=number, out=out: _die_at_operation(out, number)))  # type: ignore[misc]
            else:
                step, size = chance.randrange(1, STEPS), chance.randrange(largest)
                status = _wait(_child(config, lambda step=step, size=size: _die_inside_a_write(step, size)))  # type: ignore[misc]
            seen.kills[way] += status in (-signal.SIGKILL, -signal.SIGXFSZ)
        status = _wait(_child(config, lambda: None))
        seen.runs += 1
        if status:
            seen.different.append(f"{out.name}: {out.with_suffix('.log').read_text(encoding='utf-8')[-300:]}")
            continue
        found = _result(out)
        seen.left += len(list(out.glob(".qusr-*")))
        seen.different += [f"{out.name}: {name}" for name, value in expected.items() if found[name] != value]
    return seen
