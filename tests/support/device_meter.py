"""Device memory of a computation, counted without the device.

torch's FakeTensorMode gives every tensor its shape, type and device but no data, so that "cuda" tensors
exist on any machine. The meter counts the bytes of those that are alive. It sees every tensor that an
operation returns, but not the scratch memory inside a kernel.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("cuda")


class DeviceMeter(TorchDispatchMode):
    """Counts the bytes on `DEVICE` that operations inside the `with` block allocate.

    `peak` is the largest number that was alive at once.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._alive: set[int] = set()

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if tensor.device.type != DEVICE.type or key in self._alive:
            return
        self._alive.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)

        def gone() -> None:
            self._alive.discard(key)
            self.now -= size

        weakref.finalize(storage, gone)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf)
        return result


@contextlib.contextmanager
def without_data() -> Iterator[None]:
    """Every tensor made inside is fake, and no gradients are kept."""
    with FakeTensorMode(), torch.inference_mode():
        yield


@contextlib.contextmanager
def on_device(dtype: torch.dtype) -> Iterator[None]:
    """Modules built inside lie on `DEVICE` in this type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with DEVICE:
            yield
    finally:
        torch.set_default_dtype(before)
