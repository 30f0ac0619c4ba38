"""Reading what `torch.save` wrote, as plain data: nothing in the file is run, and nothing outgrows the file.

torch's own `weights_only` runs no code, but it believes a file's claims: a view of a few bytes can call itself
terabytes, an entry can unpack to gigabytes, and a storage can be said to be longer than it is.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

_STORAGES = {
    "FloatStorage": torch.float32, "HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip


class NotPlainData(ValueError):
    """It holds more than tensors, numbers, texts, lists and dictionaries, and could run code when opened."""


def read_pickled(path: Path) -> Any:
    """The content of a file of torch.save's zip format.

    Args:
        path: a regular file.

    Raises:
        NotPlainData: it refers to anything but tensors.
        ValueError: damaged, of another format, or it claims to be larger than it is.
        OSError: cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            raise NotPlainData("not a file of torch.save's zip format; open it where it is from and save it anew")
        try:
            with zipfile.ZipFile(file) as archive:
                return _Archive(archive, size).read()
        except (zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError, struct.error) as error:
            raise ValueError(str(error)) from error


class _Archive:
    """One open file, and how much of what it claims is used up."""

    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        self.archive, self.size = archive, size
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("its entries are compressed, which torch.save does not do")
        if sum(entry.file_size for entry in entries) > size:
            raise ValueError("its entries claim to be larger than the file")
        mains = [entry.filename for entry in entries if entry.filename.split("/")[-1] == "data.pkl"]
        if len(mains) != 1:
            raise ValueError(f"expected one data.pkl in it, but found {len(mains)}")
        self.folder = mains[0].removesuffix("data.pkl")
        self.storages: dict[str, Tensor] = {}
        self.used = 0

    def read(self) -> Any:
        order = f"{self.folder}byteorder"
        if order in self.archive.namelist() and self.archive.read(order) != b"little":
            raise ValueError("its numbers are big-endian")
        try:
            return _Unpickler(self.archive.read(f"{self.folder}data.pkl"), self).load()
        except (KeyError, IndexError, TypeError, AttributeError, OverflowError, pickle.UnpicklingError) as error:
            raise ValueError(f"its pickle is damaged ({type(error).__name__}: {error})") from error

    def storage(self, claim: Any) -> Tensor:
        """The flat tensor behind a persistent id, ("storage", type, key, device, length)."""
        if not (isinstance(claim, tuple) and len(claim) == 5 and claim[0] == "storage"):
            raise NotPlainData("it refers to something that is no storage")
        _, dtype, key, _, length = claim
        if not (isinstance(dtype, torch.dtype) and isinstance(key, str) and isinstance(length, int)):
            raise ValueError("a storage in it is not described as torch does")
        if key not in self.storages:
            content = bytearray(self.archive.read(f"{self.folder}data/{key}"))
            if length < 0 or length * dtype.itemsize != len(content):
                raise ValueError(f"storage {key} claims {length} numbers of {dtype}, but has {len(content)} bytes")
            self.storages[key] = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        if self.storages[key].dtype != dtype:
            raise ValueError(f"storage {key} is claimed to be of two types")
        return self.storages[key]

    def tensor(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
        """What torch's `_rebuild_tensor_v2` makes, without views that are larger than their storage."""
        if not isinstance(storage, Tensor) or not isinstance(shape, tuple) or not isinstance(strides, tuple):
            raise ValueError("a tensor in it is not described as torch does")
        numbers = (offset, *shape, *strides)
        if len(shape) > 8 or not all(type(n) is int and 0 <= n < 2**40 for n in numbers):
            raise ValueError(f"a tensor in it has the shape {shape!r:.60}")
        count = 1
        for side in shape:
            count *= side
        self.used += count * storage.dtype.itemsize
        if count > storage.numel() or self.used > self.size:
            raise ValueError(f"a tensor of shape {shape!r:.60} claims more than the file holds")
        return storage.as_strided(shape, strides, offset).clone()


def _empty_dict(*arguments: Any) -> OrderedDict[str, Any]:
    if arguments and arguments != ((),):
        raise NotPlainData("it fills a dictionary in a way torch.save does not")
    return OrderedDict()


_OPCODES = (
    "PROTO", "STOP", "GLOBAL", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "MARK", "TUPLE", "TUPLE1", "TUPLE2",
    "TUPLE3", "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "BINUNICODE",
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "NONE", "NEWTRUE", "NEWFALSE", "REDUCE", "BUILD", "BINPERSID",
)  # fmt: skip


class _Unpickler(pickle._Unpickler):  # the one in Python: C's memo trusts indices
    """Only the operations of torch.save's protocol 2, and only what a state dict is made of."""

    dispatch: ClassVar[dict[int, Any]] = {}
    stack: list[Any]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, content: bytes, archive: _Archive) -> None:
        super().__init__(io.BytesIO(content))
        self._archive = archive

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if (module, name) == ("collections", "OrderedDict"):
            return _empty_dict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._archive.tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda data, *_: data
        raise NotPlainData(f"it refers to {module}.{name}"[:100])

    def persistent_load(self, claim: Any) -> Tensor:
        return self._archive.storage(claim)

    def _build(self) -> None:
        """The only state in a state dict is its `_metadata`, which nobody needs."""
        self.stack.pop()
        if not isinstance(self.stack[-1], OrderedDict):
            raise NotPlainData("it sets the state of something that is no dictionary")

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._fill([key, value])

    def _set_items(self) -> None:
        self._fill(self.pop_mark())

    def _fill(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict):
            raise NotPlainData("it fills something that is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, int):  # a tuple of tuples takes forever to hash
                raise NotPlainData(f"a key in it is a {type(key).__name__}")
            self.stack[-1][key] = value

    def _append(self) -> None:
        self._extend([self.stack.pop()])

    def _appends(self) -> None:
        self._extend(self.pop_mark())

    def _extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise NotPlainData("it fills something that is no list")
        self.stack[-1].extend(items)

    def _refuse(self) -> None:
        raise NotPlainData("it uses operations that torch.save does not")


_Unpickler.dispatch.update(dict.fromkeys(range(256), _Unpickler._refuse))
_Unpickler.dispatch.update({getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]]
                            for name in _OPCODES})  # fmt: skip
_Unpickler.dispatch.update({
    pickle.BUILD[0]: _Unpickler._build, pickle.SETITEM[0]: _Unpickler._set_item,
    pickle.SETITEMS[0]: _Unpickler._set_items, pickle.APPEND[0]: _Unpickler._append,
    pickle.APPENDS[0]: _Unpickler._appends,
})  # fmt: skip
