"""What our checkpoint files share: one `.safetensors` with everything about a model in its metadata, as JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path

from torch import Tensor

from ..errors import InputError
from ..files import write_whole
from ..model.lora import LoraLayer

FORMAT_VERSION = "1"


class CheckpointError(InputError):
    """A weight file that cannot be used; the message names the file and the remedy."""


def lora_tensors(prefix: str, lora: dict[str, LoraLayer]) -> dict[str, Tensor]:
    pairs = [((f"{prefix}.{n}.down", layer.down), (f"{prefix}.{n}.up", layer.up)) for n, layer in lora.items()]
    return dict(item for pair in pairs for item in pair)


def shared_alpha(*loras: dict[str, LoraLayer]) -> float:
    alphas = {layer.alpha for lora in loras for layer in lora.values()}
    if len(alphas) > 1:
        raise ValueError("lora: all layers must have the same alpha to be stored in one file")
    return alphas.pop() if alphas else 0.0


def write_file(path: str | os.PathLike[str], tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    from safetensors.torch import save

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

    if not path.is_file():
        raise CheckpointError(f"weight file {path}: not found. {remedy}")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != expected:
                kind = metadata.get("format") or "no QUSR metadata"
                raise CheckpointError(f"weight file {path}: not {what} (found {kind}). {remedy}")
            if metadata.get("format_version") != FORMAT_VERSION:
                raise CheckpointError(
                    f"weight file {path}: format version {metadata.get('format_version')} is not supported "
                    f"(this version reads {FORMAT_VERSION}). Update the extension."
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"weight file {path}: damaged or not a safetensors file ({error}). {remedy}") from error
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}, metadata


def stored_format(path: str | os.PathLike[str]) -> str:
    """`qusr-nano` or `qusr` for a file of ours, empty for anything else; reads the header only."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            return (file.metadata() or {}).get("format", "")
    except (SafetensorError, OSError):
        return ""


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def lora_layers(tensors: dict[str, Tensor], alpha: float) -> dict[str, LoraLayer]:
    names = sorted({name.rsplit(".", 1)[0] for name in tensors})
    return {name: LoraLayer(tensors[f"{name}.down"], tensors[f"{name}.up"], alpha) for name in names}
