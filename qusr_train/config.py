"""Training configuration: one dataclass is the source of flags, help, defaults and validation."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

Stage = Literal["base", "qusr"]
Precision = Literal["no", "bf16", "fp16"]


@dataclass(frozen=True)
class TrainConfig:
    photos: str
    """Folder of sharp photos, searched recursively."""
    out: str
    """Folder for checkpoints and the finished model."""
    stage: Stage = "base"
    """`base` trains the UNet and the text encoder from bicubic; `qusr` adds LoRA, UEM and noise to one."""
    init: str = ""
    """Model to start from (a .safetensors); needed for stage `qusr`, optional for `base`."""
    steps: int = 12000
    """Optimiser steps."""
    batch_size: int = 8
    """Patches for each step."""
    patch: int = 192
    """Side of a high-resolution patch in pixels, a multiple of 16."""
    learning_rate: float = 8e-4
    """Peak learning rate (AdamW, warm-up, then cosine to 1 %)."""
    warmup: int = 200
    """Steps of linear warm-up."""
    ema: float = 0.999
    """Decay of the averaged weights that are exported; 0 exports the raw ones."""
    gradient_weight: float = 0.1
    """Weight of the gradient loss beside the pixel loss."""
    ssim_weight: float = 0.2
    """Weight of 1 - SSIM beside the pixel loss."""
    uncertainty_weight: float = 0.3
    """Weight of the uncertainty loss (stage `qusr`)."""
    uncertainty_alpha: float = 0.03
    """Error (in [-1, 1] units) below which the UEM should report nothing (eq. 8)."""
    rank: int = 4
    """LoRA rank (stage `qusr`)."""
    noise_variant: Literal["paper", "reference"] = "paper"
    """Which variant of equations 5-7 to train with (stage `qusr`)."""
    noise_k: float = 0.01
    """Noise gain k (stage `qusr`)."""
    noise_p: float = 0.5
    """Noise strength p (stage `qusr`)."""
    photo_factors: tuple[float, ...] = (0.5, 0.33)
    """Sizes at which every photo is used; most photos are soft at full size, and the degradations add softness."""
    precision: Precision = "bf16"
    """Mixed precision: no, bf16 or fp16."""
    workers: int = 1
    """Data loading processes."""
    seed: int = 1
    """Seed of weights, crops and degradations."""
    save_every: int = 500
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        if isinstance(self.photo_factors, list):
            object.__setattr__(self, "photo_factors", tuple(self.photo_factors))
        hints = get_type_hints(TrainConfig)
        for f in dataclasses.fields(self):
            _check_type(f.name, getattr(self, f.name), hints[f.name])
        for name in ("warmup", "workers", "noise_k", "noise_p", "gradient_weight", "ssim_weight", "uncertainty_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"--{name}: must be finite and at least 0, but got {getattr(self, name)}")
        for name in ("learning_rate", "uncertainty_alpha"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"--{name}: must be finite and above 0, but got {getattr(self, name)}")
        if not self.photo_factors or not all(0 < factor <= 1 for factor in self.photo_factors):
            raise ValueError(f"--photo_factors: give at least one factor in (0, 1], but got {self.photo_factors}")
        for name in ("steps", "batch_size", "save_every", "rank"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name}: must be at least 1, but got {getattr(self, name)}")
        if self.patch < 64 or self.patch % 16:
            raise ValueError(f"--patch: must be a multiple of 16 and at least 64, but got {self.patch}")
        if self.stage == "qusr" and not self.init:
            raise ValueError("--init: stage `qusr` fine-tunes a trained base, give its .safetensors file")
        if not 0 <= self.ema < 1:
            raise ValueError(f"--ema: must be in [0, 1), but got {self.ema}")

    @classmethod
    def from_mapping(cls, values: dict[str, Any]) -> TrainConfig:
        """Build from parsed JSON or flags. Raises ValueError for unknown or missing keys."""
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"unknown setting {', '.join(unknown)}; known: {', '.join(sorted(known))}")
        missing = sorted({"photos", "out"} - set(values))
        if missing:
            raise ValueError(f"missing setting {', '.join(missing)}")
        return cls(**values)


def _check_type(name: str, value: Any, hint: Any) -> None:
    """Raise ValueError unless a setting has the type its field is annotated with."""
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ValueError(f"--{name}: expected one of {', '.join(get_args(hint))}, but got {value!r}")
        return
    if get_origin(hint) is tuple:
        fits = isinstance(value, tuple) and all(_is_number(item) for item in value)
        expected = "a list of numbers"
    elif hint is float:
        fits, expected = _is_number(value), "a number"
    else:
        fits = isinstance(value, hint) and not (hint is int and isinstance(value, bool))
        expected = {int: "a whole number", str: "a text"}[hint]
    if not fits:
        raise ValueError(f"--{name}: expected {expected}, but got {value!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def field_help() -> dict[str, str]:
    """The docstring below each field of `TrainConfig`, for --help."""
    import ast
    import inspect

    body = ast.parse(inspect.getsource(TrainConfig)).body[0]
    assert isinstance(body, ast.ClassDef)
    result = {}
    for statement, following in zip(body.body, body.body[1:], strict=False):
        match statement, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=text)):
                result[name] = str(text)
    return result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser one optional flag for each field; flags override the config file."""
    hints, helps = get_type_hints(TrainConfig), field_help()
    parser.add_argument("config", nargs="?", help="JSON file with any of the settings below")
    for f in dataclasses.fields(TrainConfig):
        hint = hints[f.name]
        default = "" if f.default is dataclasses.MISSING else f" (default: {f.default})"
        options: dict[str, Any] = {"help": (helps.get(f.name, "") + default).replace("%", "%%"), "default": None}
        if get_origin(hint) is Literal:
            options["choices"] = get_args(hint)
        elif get_origin(hint) is tuple:
            options |= {"type": float, "nargs": "+"}
        else:
            options["type"] = hint
        parser.add_argument(f"--{f.name}", **options)


def from_arguments(arguments: argparse.Namespace) -> TrainConfig:
    """Config file first, then the flags that were given."""
    values: dict[str, Any] = {}
    if arguments.config:
        try:
            values = json.loads(Path(arguments.config).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"config file {arguments.config}: cannot be read ({error})") from error
        if not isinstance(values, dict):
            raise ValueError(f"config file {arguments.config}: expected a JSON object, but got {type(values).__name__}")
    for f in dataclasses.fields(TrainConfig):
        given = getattr(arguments, f.name)
        if given is not None:
            values[f.name] = given
    return TrainConfig.from_mapping(values)
