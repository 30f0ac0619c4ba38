"""What our checkpoint files share: one `.safetensors` with everything about a model in its metadata, as JSON."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from ..files import is_regular, write_whole
from ..model.lora import LoraLayer
from .check import as_weight

FORMAT_VERSION = "1"


MOST_ALPHA = 1e4
LONGEST_REASON = 300  # characters of what a library or a file says


class CheckpointError(InputError):
    """A weight file that cannot be used; the message names the file and the remedy."""


def unusable(path: Path, what: str, error: Exception | str, remedy: str) -> CheckpointError:
    """The error for a file that cannot be used: names it, and cuts what it has to say for itself."""
    reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
    reason = "".join(c if c.isprintable() else " " for c in reason)
    reason = reason if len(reason) <= LONGEST_REASON else reason[:LONGEST_REASON] + "…"
    return CheckpointError(f"weight file {path}: {what} ({reason}). {remedy}")


WRONG_CONTENT = (KeyError, IndexError, TypeError, ValueError, RuntimeError, OverflowError, AttributeError, MemoryError)
"""What reading a file's content can raise when it is not what it says; RecursionError is a RuntimeError."""


def lora_tensors(prefix: str, lora: dict[str, LoraLayer]) -> dict[str, Tensor]:
    pairs = [((f"{prefix}.{n}.down", layer.down), (f"{prefix}.{n}.up", layer.up)) for n, layer in lora.items()]
    return dict(item for pair in pairs for item in pair)


def shared_alpha(*loras: dict[str, LoraLayer]) -> float:
    alphas = {layer.alpha for lora in loras for layer in lora.values()}
    if len(alphas) > 1:
        raise ValueError("lora: all layers must have the same alpha to be stored in one file")
    return alphas.pop() if alphas else 0.0


DIGEST = "content_sha256"
"""Metadata: hash of the file's content. Files of version 0.1 have none."""
NOTES = ("ssmd_", "modelspec.")
"""Metadata that model managers add later; it is not part of the content."""


def content_digest(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """SHA-256 of tensors (names, types, shapes, bytes) and metadata, whatever their order in the file."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    about = {name: text for name, text in metadata.items() if name != DIGEST and not name.startswith(NOTES)}
    digest.update(json.dumps(about, sort_keys=True).encode())
    return digest.hexdigest()


def write_file(path: str | os.PathLike[str], tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors with their metadata, and a hash of both by which damage is noticed; the same gives the same bytes.

    Args:
        path: an existing file is replaced only once the new one is whole.
        tensors: on the CPU and contiguous, in the type they are to be stored in.
        metadata: texts.
    """
    from safetensors.torch import save

    metadata = {**metadata, DIGEST: content_digest(tensors, metadata)}
    data = save(dict(sorted(tensors.items())), metadata=metadata)
    # safetensors writes the metadata in the order of a hash map, which differs from run to run.
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    ordered = {"__metadata__": dict(sorted(header.pop("__metadata__").items())), **header}
    text = json.dumps(ordered, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with write_whole(Path(path)) as temporary:
        temporary.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])


def read_file(path: Path, expected: str, what: str, remedy: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors (in float32) and metadata of a file of ours. Raises CheckpointError."""
    from safetensors import SafetensorError, safe_open

    refuse_no_file(path, remedy)
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != expected:
                kind = metadata.get("format") or "no QUSR metadata"
                raise unusable(path, f"not {what}", f"found {kind}", remedy)
            if metadata.get("format_version") != FORMAT_VERSION:
                raise unusable(
                    path, f"format version {str(metadata.get('format_version'))[:20]} is not supported",
                    f"this version reads {FORMAT_VERSION}", "Update the extension.",
                )  # fmt: skip
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise unusable(path, "damaged or not a safetensors file", error, remedy) from error
    if DIGEST in metadata and metadata[DIGEST] != content_digest(tensors, metadata):
        raise unusable(path, "damaged", "its content is not what was written, by its own hash", remedy)
    try:
        return {k: v if k in INTEGERS else as_weight(k, v) for k, v in tensors.items()}, metadata
    except WRONG_CONTENT as error:
        raise unusable(path, "unusable weights", error, remedy) from error


INTEGERS = ("text_encoder.token_ids",)
"""The only tensors that are no weights."""


def refuse_no_file(path: Path, remedy: str) -> None:
    """Raise CheckpointError unless there is a file with an end."""
    if not path.exists():
        raise CheckpointError(f"weight file {path}: not found. {remedy}")
    if not is_regular(path):
        raise CheckpointError(f"weight file {path}: is a folder, a pipe or a device, not a file. {remedy}")


def stored_format(path: str | os.PathLike[str]) -> str:
    """`qusr-nano` or `qusr` for a file of ours, empty for anything else; reads the header only."""
    return _stored(path).get("format", "")


def stored_method(path: str | os.PathLike[str]) -> str:
    """Whose method a file of the format `qusr` is for, empty for anything else; reads the header only."""
    return _stored(path).get("method", "")


def _stored(path: str | os.PathLike[str]) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    if not is_regular(Path(path)):
        return {}
    try:
        with safe_open(str(path), framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError):
        return {}


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def lora_layers(tensors: dict[str, Tensor], alpha: float) -> dict[str, LoraLayer]:
    """LoRA layers from `NAME.down` and `NAME.up`. Raises ValueError: one is missing, or alpha is out of bounds."""
    if not abs(alpha) <= MOST_ALPHA:  # also NaN
        raise ValueError(f"the LoRA's alpha must be in [-{MOST_ALPHA:g}, {MOST_ALPHA:g}], but is {alpha}")
    names = sorted({name.rpartition(".")[0] for name in tensors})
    wanted = {f"{name}.{half}" for name in names for half in ("down", "up")}
    if wanted != tensors.keys():
        raise ValueError(f"LoRA tensor {sorted(wanted ^ tensors.keys())[0]}: its other half is missing")
    return {name: LoraLayer(tensors[f"{name}.down"], tensors[f"{name}.up"], alpha) for name in names}
