"""Weight files that lie, are damaged or would run code (issue 16, items 4, 8 and 9)."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from qusr_train.checkpoints.format import DIGEST, CheckpointError, stored_format
from qusr_train.checkpoints.load import load_checkpoint
from qusr_train.checkpoints.nano_file import load_nano, save_nano
from qusr_train.checkpoints.qusr_file import save_qusr
from qusr_train.cli.main import main
from qusr_train.images.check import ImageError
from qusr_train.images.read import read_image
from tests.attacks.memory import little_memory
from tests.attacks.size import examples
from tests.support import golden
from tests.unit.conftest import tiny_checkpoint, tiny_config, tiny_file

__all__ = ["tiny_checkpoint", "tiny_config", "tiny_file"]
REFERENCE = golden.GOLDEN / "checkpoints" / "qusr.pkl"

Tensors, Metadata = dict[str, Tensor], dict[str, str]
Change = Callable[[Tensors, Metadata], Any]


def changed(source: Path, target: Path, change: Change) -> Path:
    """A file of ours with something else in it, and without a hash, which whoever lies would leave out."""
    with safe_open(str(source), framework="pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata())  # noqa: SIM118
    del metadata[DIGEST]
    change(tensors, metadata)
    save_file({name: value.contiguous() for name, value in tensors.items()}, str(target), metadata)
    return target


def refused(path: Path, load: Callable[[Path], Any], message: str = "") -> None:
    """Loading says no: names the file, is short, and takes no memory worth speaking of."""
    with little_memory(), pytest.raises(CheckpointError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 700 + len(str(path))


def _config(**lies: Any) -> Change:
    return lambda t, m: m.update(config=json.dumps({**json.loads(m["config"]), **lies}))


def _value(name: str, value: float) -> Change:
    def change(tensors: Tensors, metadata: Metadata) -> None:
        tensors[name] = tensors[name].clone()
        tensors[name].view(-1)[0] = value

    return change


def _cast(name: str, dtype: torch.dtype) -> Change:
    return lambda t, m: t.update({name: t[name].to(dtype)})


def _noise(**lies: Any) -> Change:
    return lambda t, m: m.update(noise=json.dumps({**json.loads(m["noise"]), **lies}))


CONV, LORA = "unet.conv_in.weight", "lora.conv_in"
NANO: dict[str, tuple[Change, str]] = {
    "NaN": (_value(CONV, float("nan")), "unet.conv_in.weight: has NaN"),
    "infinite": (_value("uem.encoder.0.bias", float("inf")), "uem.encoder.0.bias: has NaN or infinite"),
    "NaN in LoRA": (_value(f"{LORA}.down", float("nan")), "lora.conv_in.down: has NaN"),
    "NaN in text": (_value("text_encoder.token_rows", float("nan")), "token_rows: has NaN"),
    "I16": (_cast(CONV, torch.int16), "unet.conv_in.weight: expected floating-point weights, but got int16"),
    "I32": (_cast("uem.encoder.0.bias", torch.int32), "uem.encoder.0.bias: expected floating-point .* int32"),
    "bool": (_cast(f"{LORA}.up", torch.bool), "expected floating-point weights, but got bool"),
    "alpha NaN": (lambda t, m: m.update(lora_alpha="NaN"), "alpha must be in"),
    "alpha infinite": (lambda t, m: m.update(lora_alpha="Infinity"), "alpha must be in"),
    "alpha large": (lambda t, m: m.update(lora_alpha="1e300"), "alpha must be in"),
    "alpha text": (lambda t, m: m.update(lora_alpha='"x"'), "inconsistent"),
    "alpha list": (lambda t, m: m.update(lora_alpha="[8]"), "inconsistent"),
    "k NaN": (_noise(k=float("nan")), "noise parameter k"),
    "p infinite": (_noise(p=float("inf")), "noise parameter p"),
    "p huge": (_noise(p=10**400), "noise parameter p"),
    "m text": (_noise(m="0"), "noise parameter m must be a number"),
    "delta bool": (_noise(delta=True), "noise parameter delta must be a number"),
    "variant list": (_noise(variant=["paper"]), "variant"),
    "scale NaN": (lambda t, m: m.update(latent_scale="NaN"), "latent_scale"),
    "scale overflow": (lambda t, m: m.update(latent_scale="1" * 400), "inconsistent"),
    "scale long": (lambda t, m: m.update(latent_scale="1" * 100_000), "inconsistent"),
    "blocks": (_config(blocks=10**7), "blocks must be a whole number up to"),
    "blocks within limits": (_config(blocks=64), "should be|is missing"),
    "channels": (_config(channels=[40_000, 40_000]), "channels must be"),
    "channels within limits": (_config(channels=[4096, 4096]), "by its own description"),
    "levels": (_config(channels=[8] * 10_000), "channels must be"),
    "channels text": (_config(channels="88"), "channels must be"),
    "channels number": (_config(channels=5), "inconsistent"),
    "text width": (_config(text_dim=1024), "by its own description"),
    "text layers": (_config(text_layers=10**9), "text_layers must be a whole number up to"),
    "UEM": (_config(uem_channels=1024), "by its own description"),
    "shuffle": (_config(shuffle=16), "by its own description"),
    "heads float": (_config(heads=2.0), "heads must be a whole number"),
    "unknown": (_config(lies=1), "unexpected keyword"),
    "deep": (lambda t, m: m.update(config="[" * 100_000), "inconsistent"),
    "config is a list": (lambda t, m: m.update(config="[]"), "inconsistent"),
    "no config": (lambda t, m: m.pop("config"), "'config' is missing"),
    "missing": (lambda t, m: t.pop(CONV), "tensor conv_in.weight is missing"),
    "too many": (lambda t, m: t.update({"unet.more": torch.ones(1)}), "tensor more does not belong"),
    "shape": (lambda t, m: t.update({CONV: t[CONV][:1]}), "conv_in.weight should be"),
    "empty and huge": (lambda t, m: t.update({CONV: torch.empty(0, 2**40)}), "conv_in.weight should be"),
    "ids negative": (lambda t, m: t["text_encoder.token_ids"].neg_(), "token_ids must be in"),
    "ids too large": (_value("text_encoder.token_ids", 49_408), "token_ids must be in"),
    "ids float": (_cast("text_encoder.token_ids", torch.float32), "expected whole token_ids"),
    "LoRA half": (lambda t, m: t.pop(f"{LORA}.up"), "its other half is missing"),
    "LoRA rank": (lambda t, m: t.update({f"{LORA}.up": t[f"{LORA}.up"][:, :1]}), "differ in rank"),
    "LoRA rank 0": (
        lambda t, m: t.update({f"{LORA}.up": t[f"{LORA}.up"][:, :0], f"{LORA}.down": t[f"{LORA}.down"][:0]}),
        "differ in rank",
    ),
    "LoRA scalar": (lambda t, m: t.update({f"{LORA}.up": torch.tensor(1.0)}), "differ in rank"),
    "LoRA product": (
        lambda t, m: t.update({f"{LORA}.up": torch.ones(1_000_000, 1), f"{LORA}.down": torch.ones(1, 1_000_000)}),
        "is for a weight of",
    ),
    "LoRA of no layer": (
        lambda t, m: t.update({"lora.x.up": torch.ones(1, 1), "lora.x.down": torch.ones(1, 1)}),
        "no such",
    ),
    "version": (lambda t, m: m.update(format_version="x" * 10_000), "is not supported"),
    "format": (lambda t, m: m.update(format="x" * 10_000), "not a qusr-nano model"),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(NANO))
def test_nano_files_that_lie(tiny_file: Path, tmp_path: Path, kind: str) -> None:
    change, message = NANO[kind]
    refused(changed(tiny_file, tmp_path / "lies.safetensors", change), load_nano, message)


def _key(name: str, text: str) -> Change:
    return lambda t, m: m.update({name: text})


def _wide(tensors: Tensors, metadata: Metadata) -> None:
    tensors["uem.encoder.0.weight"] = torch.ones(100_000, 3, 1, 1)


QUSR: dict[str, tuple[Change, str]] = {
    "method": (_key("method", "other"), "method must be one of"),
    "alpha": (_key("alpha", "NaN"), "alpha must be in"),
    "timestep infinite": (_key("timestep", "1e999"), "inconsistent"),
    "timestep": (_key("timestep", "1000"), "timestep"),
    "k": (_key("k", "NaN"), "noise parameter k"),
    "p": (_key("p", "-1"), "noise parameter p"),
    "training": (_key("training", "{" * 5000), "inconsistent"),
    "NaN": (_value("lora.conv_in.down", float("nan")), "lora.conv_in.down: has NaN"),
    "I32": (_cast("lora.conv_in.up", torch.int32), "expected floating-point weights, but got int32"),
    "UEM": (lambda t, m: t.update({"uem.encoder.0.weight": torch.empty(1_000_000, 0, 3, 3)}), "UEM weights do not fit"),
    "modulation": (
        lambda t, m: t.update({"modulation.SFT_scale_conv0.bias": torch.ones(1_000_000)}),
        "feature modulation: its weights do not fit",
    ),
    "UEM wide": (_wide, "UEM weights do not fit"),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(QUSR))
def test_qusr_files_that_lie(tmp_path: Path, kind: str) -> None:
    save_qusr(tmp_path / "whole.safetensors", load_checkpoint(REFERENCE))
    change, message = QUSR[kind]
    refused(changed(tmp_path / "whole.safetensors", tmp_path / "lies.safetensors", change), load_checkpoint, message)


class _Storage:
    """Stands for a storage; says what it is as torch.save does."""

    def __init__(self, claim: tuple[Any, ...]) -> None:
        self.claim = claim


class _View:
    def __init__(self, storage: _Storage, *numbers: Any) -> None:
        self.parts = (storage, *numbers, False, OrderedDict())

    def __reduce__(self) -> tuple[Any, ...]:
        return torch._utils._rebuild_tensor_v2, self.parts


class _Calls:
    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


class _Pickler(pickle._Pickler):
    def persistent_id(self, thing: Any) -> Any:
        return thing.claim if isinstance(thing, _Storage) else None


def archive(path: Path, content: Any, storages: dict[str, bytes] | None = None, compress: bool = False) -> Path:
    """A file like torch.save's; `content` is pickled, or taken as a pickle."""
    if not isinstance(content, bytes):
        buffer = io.BytesIO()
        _Pickler(buffer, protocol=2).dump(content)
        content = buffer.getvalue()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as file:
        file.writestr("archive/data.pkl", content)
        for name, data in (storages or {}).items():
            file.writestr(f"archive/data/{name}", data)
    return path


def _ones(length: int) -> _Storage:
    return _Storage(("storage", torch.FloatStorage, "0", "cpu", length))


def _laughs(depth: int) -> tuple[Any, ...]:
    inner: tuple[Any, ...] = ("ha",)
    for _ in range(depth):
        inner = (inner, inner)
    return inner


MANY = {"0": bytes(160_000)}
FOUR = {"0": b"\0\0\x80\x3f" * 4}
LAUGHS = b"\x80\x02}(X\x02\x00\x00\x00ha\x85" + b"q\x00h\x00\x86" * 60 + b"K\x01u."
PICKLES: dict[str, tuple[Any, dict[str, bytes], str]] = {
    "stride 0": (_View(_ones(4), 0, (10**6, 10**6), (0, 0)), FOUR, "claims more than the file holds"),
    "negative stride": (_View(_ones(4), 0, (4,), (-1,)), FOUR, "has the shape"),
    "beyond the end": (_View(_ones(4), 3, (4,), (1,)), FOUR, "damaged"),
    "float sizes": (_View(_ones(4), 0, (2.0,), (1,)), FOUR, "has the shape"),
    "longer storage": (_View(_ones(10**9), 0, (10**9,), (1,)), FOUR, "claims 1000000000 numbers"),
    "many views": (
        [_View(_ones(40_000), 0, (40_000,), (1,)) for _ in range(1000)],
        MANY,
        "claims more than the file holds",
    ),
    "no storage": (_View(_Storage(("module", "x", "0", "cpu", 4)), 0, (1,), (1,)), FOUR, "no storage"),
    "lost storage": (_View(_ones(4), 0, (4,), (1,)), {}, "damaged"),
    "bytearray": (_Calls(bytearray, 2 * 10**10), {}, "refers to .*bytearray"),
    "system": (_Calls(os.system, "exit 1"), {}, "could run code"),
    "eval": (_Calls(eval, "1"), {}, "could run code"),
    "getattr": (_Calls(getattr, "a", "b"), {}, "could run code"),
    "filled dict": (_Calls(OrderedDict, [("a", 1)]), {}, "fills a dictionary"),
    "state of a function": (_Calls(torch._utils._rebuild_tensor_v2, state={"__defaults__": 1}), {}, "damaged"),
    "laughs": (LAUGHS, {}, "a key in it is a tuple"),
    "memo": (b"\x80\x02}r\xff\xff\xff\x7f.", {}, "it is none of"),
    "frame": (b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f}.", {}, "operations that torch.save does not"),
    "long text": (b"\x80\x02X\xff\xff\xff\xff.", {}, "damaged"),
    "endless": (b"\x80\x02" + b"(" * 100_000, {}, "damaged"),
    "empty stack": (b"\x80\x02a.", {}, "damaged"),
    "nothing": (b"", {}, "damaged"),
    "cycle": (b"\x80\x02]q\x00h\x00a.", {}, "expected a dictionary"),
}


@pytest.mark.parametrize("kind", list(PICKLES))
def test_pickles_that_lie_or_would_run_code(tmp_path: Path, kind: str) -> None:
    content, storages, message = PICKLES[kind]
    refused(archive(tmp_path / "model.pkl", content, storages), load_checkpoint, message)


def test_archives_that_unpack_to_more(tmp_path: Path) -> None:
    large = {"0": bytes(20_000_000)}
    view = _View(_ones(5_000_000), 0, (5_000_000,), (1,))
    refused(archive(tmp_path / "model.pkl", view, large, compress=True), load_checkpoint, "compressed")
    path = archive(tmp_path / "twice.pkl", {"a": 1}, {"0": bytes(1000)})
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 4)  # of data/0 in the list at the end
    content[entry + 20 : entry + 28] = (2**31).to_bytes(4, "little") * 2
    path.write_bytes(content)
    refused(path, load_checkpoint, "larger than the file")


def test_what_torch_really_writes_is_read(tmp_path: Path) -> None:
    """Also parameters, a state dict with its metadata, views and other dtypes."""
    content = torch.load(REFERENCE, weights_only=True)
    state = content["state_dict_unet"]
    first = next(iter(state))
    content["state_dict_unet"] = OrderedDict({**state, first: torch.nn.Parameter(state[first].T.contiguous().T)})
    content["state_dict_unet"]._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    torch.save(content, tmp_path / "again.pkl")
    before, after = load_checkpoint(REFERENCE), load_checkpoint(tmp_path / "again.pkl")
    assert before.lora.keys() == after.lora.keys()
    assert all(torch.equal(layer.down, after.lora[name].down) for name, layer in before.lora.items())
    assert all(torch.equal(value, after.uem[name]) for name, value in before.uem.items())


def _whole_files(folder: Path, checkpoint: Any) -> list[tuple[Path, Callable[[Path], Any]]]:
    save_nano(folder / "nano.safetensors", checkpoint)
    save_qusr(folder / "qusr.safetensors", load_checkpoint(REFERENCE))
    return [(folder / "nano.safetensors", load_nano), (folder / "qusr.safetensors", load_checkpoint)]


def test_a_changed_bit_is_noticed(tiny_checkpoint: Any, tmp_path: Path) -> None:
    """By the file's own hash: another finite weight or noise parameter would be a wrong picture without a word."""
    for path, load in _whole_files(tmp_path, tiny_checkpoint):
        content = path.read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        for place in (start, (start + len(content)) // 2 // 2 * 2, len(content) - 2):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            refused(path, load, "damaged .*by its own hash")
        changed_number = content.replace(b'"0.01"', b'"0.02"').replace(b'k\\": 0.01', b'k\\": 0.02')
        path.write_bytes(changed_number if changed_number != content else content.replace(b'"0.5"', b'"0.6"'))
        assert path.read_bytes() != content
        refused(path, load, "damaged .*by its own hash")


def test_files_without_a_hash_and_with_notes_of_others_are_read(tiny_checkpoint: Any, tmp_path: Path) -> None:
    for path, load in _whole_files(tmp_path, tiny_checkpoint):
        expected = load(path)
        with safe_open(str(path), framework="pt") as file:
            tensors, metadata = load_file(path), dict(file.metadata())
        assert len(metadata.pop(DIGEST)) == 64
        save_file(tensors, str(tmp_path / "old.safetensors"), metadata)
        with safe_open(str(path), framework="pt") as file:
            save_file(tensors, str(tmp_path / "notes.safetensors"), {**file.metadata(), "ssmd_rating": "5"})
        for name in ("old.safetensors", "notes.safetensors"):
            loaded = load(tmp_path / name)
            assert all(torch.equal(value, expected.uem[key]) for key, value in loaded.uem.items())


def test_pipes_devices_and_folders_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    for path in (tmp_path / "pipe.safetensors", Path("/dev/zero"), tmp_path):
        for load in (load_nano, load_checkpoint):
            refused(path, load, "is a folder, a pipe or a device")
        assert stored_format(path) == ""
        with pytest.raises(ImageError, match="not a file"):
            read_image(path)


def test_a_result_that_is_no_number_is_not_written(
    tiny_checkpoint: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every weight is finite, and yet the result overflows: an error, and no black picture."""
    tiny_checkpoint.unet = {name: value.clone() for name, value in tiny_checkpoint.unet.items()}
    for name in ("conv_in.weight", "conv_out.weight"):
        tiny_checkpoint.unet[name].fill_(60_000.0)
    for name in [name for name in tiny_checkpoint.unet if "conv1" in name or "conv2" in name]:
        tiny_checkpoint.unet[name].fill_(60_000.0)
    save_nano(tmp_path / "large.safetensors", tiny_checkpoint)
    photo = Path(__file__).resolve().parents[2] / "nodes" / "example_photo" / "osprey-small.png"
    code = main(["restore", str(photo), str(tmp_path / "out.png"), "--model", str(tmp_path / "large.safetensors")])
    assert code != 0
    assert "NaN or infinite" in capsys.readouterr().err
    assert not (tmp_path / "out.png").exists()


def _damage(content: bytes, changes: list[tuple[int, int]], cut: int) -> bytes:
    damaged = bytearray(content)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    return bytes(damaged[: len(damaged) - cut % len(damaged)] if cut else damaged)


PLACES = st.one_of(st.integers(0, 4000), st.integers(0, 2**22))
DAMAGE = st.tuples(
    st.lists(st.tuples(PLACES, st.integers(0, 255)), max_size=8), st.one_of(st.just(0), st.integers(1, 5000))
)
QUICK = settings(max_examples=examples(300), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUICK
@given(damage=DAMAGE)
def test_damaged_files_load_whole_or_not_at_all(tiny_file: Path, damage: tuple[list[tuple[int, int]], int]) -> None:
    sources = ((tiny_file, load_nano), (REFERENCE, load_checkpoint))
    for source, load in sources:
        path = tiny_file.with_name(f"damaged{source.suffix}")
        path.write_bytes(_damage(source.read_bytes(), *damage))
        try:
            with little_memory():
                loaded = load(path)
        except CheckpointError as error:
            assert path.name in str(error)  # noqa: PT017 (one of the two outcomes)
            continue
        assert all(torch.isfinite(value).all() for value in loaded.uem.values())
        assert all(torch.isfinite(layer.delta()).all() for layer in loaded.lora.values())
        if source == tiny_file:  # it has a hash: what is read is what was written
            whole = load(source)
            assert loaded.noise == whole.noise
            assert all(torch.equal(value, loaded.unet[name]) for name, value in whole.unet.items())
            assert all(torch.equal(layer.up, loaded.lora[name].up) for name, layer in whole.lora.items())
