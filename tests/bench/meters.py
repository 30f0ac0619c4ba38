"""What a benchmark measures: memory of the process, seconds of each stage."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import torch


class MemoryWatch:
    """Largest resident memory of this process while it runs, GiB."""

    def __init__(self) -> None:
        import psutil

        self.process = psutil.Process()
        self.start = self.peak = self.now()
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def now(self) -> float:
        return self.process.memory_info().rss / 2**30

    def _watch(self) -> None:
        while not self.stopped.wait(0.01):
            self.peak = max(self.peak, self.now())

    def __enter__(self) -> MemoryWatch:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.thread.join()


class Stopwatch:
    """Seconds of each stage, with the device in step."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, {}  # type: ignore[var-annotated]

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._wait()
        start = time.perf_counter()
        yield
        self._wait()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
