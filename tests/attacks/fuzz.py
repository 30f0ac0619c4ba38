"""Calls of every node with values drawn from its own schema, good and odd ones mixed.

A call ends well only in two ways: a whole, finite result, or an error that names one of the node's inputs.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch

from tests.support import golden
from tests.support.chat_server import ChatServer, Reply

LONGEST_MESSAGE = 1500
TEXTS = (
    "", " ", "a blurry photo", "very poor clarity, noisy", "x" * 5000, "\0", "\ud800", "中文 ärger 🙂", "((a:1.5))",
    "../../victim", "/etc/passwd", "{}", "[" * 2000, '{"out": "/victim"}', '{"seed": 1e400}', "%s%n", "\n" * 50,
    "http://127.0.0.1:1", "http://[", "file:///etc/passwd", "embedding:x", "<|endoftext|>", "photos", "mine",
)  # fmt: skip
ODD_NUMBERS = (float("nan"), float("inf"), -float("inf"), -1, 0, 2**31, 2**64, -(2**70), 1e308, 1e-308)
NETWORK = {"download": False}  # nothing is fetched


class Values:
    """Draws inputs for the nodes; knows a nano model, and the golden one of SD 2.1's kind.

    Args:
        pack: the extension.
        nano: its bundled model's sockets.
        address: of a caption server.
    """

    def __init__(self, pack: Any, nano: Any, address: str) -> None:
        self.nano, self.address = nano, address
        self.nodes = {cls.__name__: cls for cls in pack.nodes.NODES}
        self.models = [nano.model, nano.model, golden.golden_unet()]
        self.vaes = [nano.vae, nano.vae, golden.golden_vae()]
        self.sockets: Any = pack.nodes.native.sockets
        self.noise: Any = pack.nodes.native.noise
        self.chance = random.Random(0)

    def call(self, name: str) -> dict[str, Any]:
        """Keyword arguments for a node: most of them good, some odd."""
        schema = self.nodes[name].define_schema()
        odd = self.chance.random() < 0.6
        given = {}
        models = dict.fromkeys(("model", "clip", "vae", "uem"), self.chance.random() < 0.3)
        for one in schema.inputs:
            wanted = models[one.id] if schema.is_input_list and one.id in models else self.chance.random() < 0.5
            if one.optional and not wanted and self.chance.random() < 0.95:
                continue
            value = NETWORK.get(one.id, self.of(one, odd and self.chance.random() < 0.4))
            if (
                value is self.vaes[-1]
                and min(getattr(given.get("image"), "shape", (16, 16, 16, 3))[1:3], default=0) < 16
            ):
                value = self.nano.vae  # the golden one's norms need more than one value
            given[one.id] = [value] if schema.is_input_list and self.chance.random() < 0.97 else value
            if schema.is_input_list and not isinstance(given[one.id], list):
                given[one.id] = [value, self.of(one, False)]
        return self._cheap(given)

    def _cheap(self, given: dict[str, Any]) -> dict[str, Any]:
        """Sizes that would take minutes and gigabytes are right, but no use here; nor is the golden VAE at 8 x 8."""
        first = {name: (value or [None])[0] if isinstance(value, list) else value for name, value in given.items()}
        image, latent, uncertainty = (first.get(name) for name in ("image", "latent", "uncertainty"))
        sides = list(image.shape[1:3]) if isinstance(image, torch.Tensor) else []
        sides += [8 * side for side in latent["samples"].shape[-2:]] if latent else []
        sides += list(uncertainty.map.shape[-2:]) if uncertainty else []
        if first.get("vae") is self.vaes[-1] and min(sides, default=16) < 16:
            # the norms of the other one need more than one value
            given["vae"] = [self.nano.vae] if isinstance(given["vae"], list) else self.nano.vae
        for name, most in (("factor", 16.0), ("scale", 16.0), ("longest_side", 64), ("megapixels", 0.01)):
            values = given.get(name, [])
            few = [min(v, most) if 0 < v < 1e6 else v for v in (values if isinstance(values, list) else [values])]
            given |= {name: few if isinstance(values, list) else few[0]} if name in given else {}
        return given

    def of(self, one: Any, odd: bool) -> Any:
        kind = one.get_io_type()
        if kind in ("INT", "FLOAT"):
            return self._number(one, kind, odd)
        if one.id in ("base_url", "key_variable") and not odd:
            return {"base_url": self.address, "key_variable": "QUSR_API_KEY"}[one.id]
        if kind == "STRING":
            return self.chance.choice([*TEXTS, self.address])
        if kind == "BOOLEAN":
            return self.chance.random() < 0.5
        if kind == "COMBO":
            return self.chance.choice(TEXTS) if odd else self.chance.choice(list(one.options) or [""])
        return getattr(self, f"_{kind.lower()}")(odd)

    def _number(self, one: Any, kind: str, odd: bool) -> Any:
        if odd:
            value = self.chance.choice(ODD_NUMBERS)
            return value if kind == "FLOAT" or not isinstance(value, float) else self.chance.choice([-1, 0, 2**64])
        low, high = one.min if one.min is not None else 0, one.max if one.max is not None else 100
        draw = self.chance.randint if kind == "INT" else self.chance.uniform
        return self.chance.choice([low, high, one.default, draw(low, high), draw(low, min(high, low + 10))])

    def _tensor(self, *shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=torch.Generator().manual_seed(self.chance.randrange(2**31)))

    def _size(self) -> tuple[int, int]:
        return self.chance.choice([(16, 16), (16, 16), (16, 16), (1, 1), (3, 17), (16, 12)])

    def _image(self, odd: bool) -> Any:
        batch, channels = self.chance.choice([1, 1, 1, 2, 3]), self.chance.choice([1, 3, 3, 3, 4])
        good = self._tensor(batch, *self._size(), channels)
        if not odd:
            return good
        changes: list[Callable[[torch.Tensor], Any]] = [
            lambda x: x * 255, lambda x: (x * 255).to(torch.uint8), lambda x: x * math.nan, lambda x: x / 0,
            lambda x: x.half(), lambda x: x.to(torch.bfloat16), lambda x: x.double(), lambda x: -x, lambda x: x * 1.3,
            lambda x: x[0], lambda x: x[None], lambda x: x[:0], lambda x: x[:, :0], lambda x: x[..., :0],
            lambda x: x.expand(*x.shape[:3], x.shape[-1]).repeat(1, 1, 1, 2), lambda x: x.permute(0, 3, 1, 2),
            lambda x: x > 0.5, lambda x: x.to(torch.complex64), lambda x: x.numpy(), lambda x: x.tolist(),
            lambda x: {"samples": x}, lambda x: "image", lambda x: x.transpose(1, 2), lambda x: x.to("meta"),
            lambda x: x.to_sparse(), lambda x: torch.full_like(x, 1e38),
        ]  # fmt: skip
        return self.chance.choice(changes)(good)

    def _mask(self, odd: bool) -> Any:
        return self._tensor(1, *self._size())

    def _latent(self, odd: bool) -> Any:
        channels = self.chance.choice([48, 48, 4])
        samples = self._tensor(self.chance.choice([1, 1, 2]), channels, *self._size()) - 0.5
        if odd:
            samples = self.chance.choice([
                samples * math.nan, samples * 1e30, samples[0], samples[None], samples[:0], samples[..., :0],
                samples.half(), samples.long(), samples[:, :3],
            ])  # fmt: skip
        latent: dict[str, Any] = {"samples": samples}
        if self.chance.random() < 0.3:
            latent["qusr_size"] = (self.chance.randrange(70), self.chance.randrange(70))
        if self.chance.random() < 0.1:
            latent["noise_mask"] = self._tensor(1, *self._size())
        return latent

    def _model(self, odd: bool) -> Any:
        return self.chance.choice(self.models)

    def _clip(self, odd: bool) -> Any:
        return self.nano.clip

    def _vae(self, odd: bool) -> Any:
        return self.chance.choice(self.vaes)

    def _qusr_uem(self, odd: bool) -> Any:
        return dataclasses.replace(self.nano.uem, patcher=None) if odd else self.nano.uem

    def _qusr_uncertainty(self, odd: bool) -> Any:
        height, width = self._size()
        u = self._tensor(self.chance.choice([1, 1, 2]), 3, height * 4, width * 4) - 0.5
        u = self.chance.choice([u * 0, u * 1e20, u.abs() * 1e-30]) if odd else u
        estimator = self.chance.choice(["model", "gradient", "sobel"])
        meaning = self.nano.uem.meaning if self.chance.random() < 0.5 else None
        return self.sockets.Uncertainty(u, self.nano.uem.noise, 1.0, estimator, meaning)

    def _noise(self, odd: bool) -> Any:
        sigma = self._tensor(self.chance.choice([1, 1, 2]), self.chance.choice([48, 48, 4]), *self._size())
        return self.noise.AdaptiveNoise(self.chance.randrange(2**64), sigma, 0.5)

    def _qusr_tiles(self, odd: bool) -> Any:
        return self.nodes["QUSRPhotoTiles"].execute(self._tensor(1, *self._size(), 3), 32, 8).args[1]

    def _conditioning(self, odd: bool) -> Any:
        if odd:
            text = self._tensor(self.chance.choice([1, 2, 3]), 77, self.chance.choice([64, 32, 1024]))
            return self.chance.choice([[[text, {}]], [[text, {}], [text, {"pooled_output": None}]], []])
        return self.nodes["QUSREncodePrompt"].execute([self.nano.clip], ["a photo"]).args[0]


def unfinished(name: str, value: Any) -> str:
    """What is wrong with an output; empty when it is whole."""
    if isinstance(value, torch.Tensor):
        if not value.numel():
            return f"{name}: an empty tensor"
        return "" if torch.isfinite(value.float()).all() else f"{name}: not finite"
    if isinstance(value, dict):
        return next((wrong for key, part in value.items() if (wrong := unfinished(f"{name}.{key}", part))), "")
    if isinstance(value, (list, tuple)):
        return next((wrong for part in value if (wrong := unfinished(name, part))), "")
    if dataclasses.is_dataclass(value) and hasattr(value, "map"):
        return unfinished(f"{name}.map", value.map)
    return ""


def judge(cls: Any, given: dict[str, Any]) -> tuple[str, str]:
    """Call a node as ComfyUI does. Returns "result" or "error" or "bad", and the words about it."""
    schema = cls.define_schema()
    names = sorted({one.id for one in schema.inputs} | {"weight file", "uncertainty", "checkpoint", "noise parameter"})
    try:
        outputs = cls.execute(**given).args
    except (ValueError, RuntimeError) as error:
        text = str(error)
        named = text.startswith(tuple(names)) and type(error).__module__ != "torch"
        return ("error" if named and len(text) < LONGEST_MESSAGE else "bad"), f"{type(error).__name__}: {text[:400]}"
    except Exception as error:
        return "bad", f"{type(error).__name__}: {str(error)[:400]}"
    wrong = next((w for one, value in zip(schema.outputs, outputs, strict=False)
                  if (w := unfinished(one.display_name or one.id, value))), "")  # fmt: skip
    return ("bad", wrong) if wrong else ("result", "")


def _replies() -> Iterator[Reply]:
    while True:
        for content in ("A blurry photo.", "", None, 5, ["x"], [{"text": "noisy"}], {"a": 1}, "x" * 100_000):
            yield Reply(json.dumps({"choices": [{"message": {"content": content}}]}).encode())
        for body in (b"", b"{", b"[" * 50_000, b'{"choices": []}', b"\xff\xfe", b'{"error": {"message": 5}}'):
            yield Reply(body)
            yield Reply(body, 400)


@dataclasses.dataclass
class Calls:
    """What came of them."""

    ended: Counter[str] = dataclasses.field(default_factory=Counter)
    nodes: Counter[str] = dataclasses.field(default_factory=Counter)
    results: Counter[str] = dataclasses.field(default_factory=Counter)
    """By node: calls that gave one."""
    seconds: Counter[str] = dataclasses.field(default_factory=Counter)
    bad: list[str] = dataclasses.field(default_factory=list)
    """Silent failures, unnamed errors, and crashes, one of each kind."""


def fuzz(pack: Any, nano: Any, count: int, seed: int = 0) -> Calls:
    """Call nodes `count` times in turn."""
    seen = Calls()
    kinds: set[tuple[str, str]] = set()
    with ChatServer() as chat, torch.inference_mode():
        values = Values(pack, nano, chat.address)
        names, replies = sorted(values.nodes), _replies()
        for number in range(seed, seed + count):
            values.chance.seed(number)
            name = names[number % len(names)]
            chat.script = [next(replies)]
            given = values.call(name)
            started = time.monotonic()
            outcome, words = judge(values.nodes[name], given)
            seen.seconds[name] += time.monotonic() - started
            seen.ended[outcome] += 1
            seen.nodes[name] += 1
            seen.results[name] += outcome == "result"
            if outcome == "bad" and (name, words[:60]) not in kinds:
                kinds.add((name, words[:60]))
                shown = {key: _short(value) for key, value in given.items()}
                seen.bad.append(f"call {number} of {name}: {words} <- {shown}")
    return seen


def _short(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{tuple(value.shape)}"
    if isinstance(value, dict):
        return str({key: _short(part) for key, part in value.items()})
    if isinstance(value, list):
        return "[" + ", ".join(_short(part) for part in value[:3]) + "]"
    return repr(value)[:60]
