"""Training settings: one dataclass, its flags, its errors."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from qusr_train.training.config import TrainConfig

REQUIRED = {"photos": "in", "out": "out"}
FIELDS = [field.name for field in dataclasses.fields(TrainConfig)]


def test_unknown_setting_is_refused_and_the_known_are_listed() -> None:
    with pytest.raises(ValueError, match=r"unknown setting momentum, step; known: .*learning_rate"):
        TrainConfig.from_mapping({**REQUIRED, "step": 3, "momentum": 1})


@pytest.mark.parametrize("name", ["photos", "out"])
def test_missing_setting_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"missing setting {name}"):
        TrainConfig.from_mapping({key: value for key, value in REQUIRED.items() if key != name})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stage", "other"),
        ("precision", "fp8"),
        ("noise_variant", "papers"),
        ("steps", 0),
        ("batch_size", -1),
        ("save_every", 0),
        ("rank", 0),
        ("patch", 48),
        ("patch", 100),
        ("ema", 1.0),
        ("ema", -0.1),
    ],
)
def test_bad_value_names_its_flag(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: .*but got "):
        TrainConfig.from_mapping({**REQUIRED, name: value})


@pytest.mark.parametrize("stage", ["base", "sd21"])
def test_grain_is_refused_where_it_would_do_nothing(stage: str) -> None:
    with pytest.raises(ValueError, match=r"^noise_grain: only for stage `qusr`"):
        TrainConfig.from_mapping({**REQUIRED, "stage": stage, "init": "base.safetensors", "noise_grain": 0.5})


def test_second_stage_needs_a_model_to_start_from() -> None:
    with pytest.raises(ValueError, match=r"^init: stage `qusr`"):
        TrainConfig.from_mapping({**REQUIRED, "stage": "qusr"})
    assert TrainConfig.from_mapping({**REQUIRED, "stage": "qusr", "init": "base.safetensors"}).stage == "qusr"


@pytest.mark.parametrize(("name", "value"), [("steps", "12"), ("photo_factors", 1.0), ("ema", None)])
def test_wrong_type_names_its_flag(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name}"):
        TrainConfig.from_mapping({**REQUIRED, name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", -1.0),
        ("learning_rate", float("nan")),
        ("warmup", -5),
        ("workers", -1),
        ("noise_k", -0.1),
        ("noise_p", -0.1),
        ("gradient_weight", -1.0),
        ("photo_factors", ()),
        ("photo_factors", (-1.0,)),
    ],
)
def test_impossible_value_names_its_flag(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name}"):
        TrainConfig.from_mapping({**REQUIRED, name: value})


def test_config_cannot_be_changed_afterwards() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig("in", "out").steps = 3  # type: ignore[misc]
