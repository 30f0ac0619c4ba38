"""Training state that is damaged, and two runs in one folder (issue 16, items 13 and 15)."""

from __future__ import annotations

import dataclasses
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from qusr_train.errors import InputError
from qusr_train.files import remove_leftovers, write_new, write_whole
from qusr_train.training.config import TrainConfig
from qusr_train.training.lock import run_lock
from qusr_train.training.state import TrainState, load_state, previous_state, save_state
from tests.attacks.size import examples

CONFIG = TrainConfig(photos="photos", out="out")


def _state(step: int) -> TrainState:
    weights = {"a": torch.arange(600.0) + step, "b": torch.ones(3, dtype=torch.bfloat16)}
    optimizer = {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99)}]}
    return TrainState(step, weights, optimizer, {k: v.clone() for k, v in weights.items()})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    for step in (10, 20):
        save_state(tmp_path / "base.state.pt", _state(step), CONFIG, 8)
    return tmp_path / "base.state.pt"


def test_both_states_are_whole(path: Path) -> None:
    assert load_state(path, CONFIG, 8).step == 20
    assert load_state(previous_state(path), CONFIG, 8).step == 10


@pytest.mark.parametrize("seed", [513, *range(examples(600, 20))])  # 513: a number cut in two, struct.error
def test_damage_is_told_and_the_state_before_is_offered(path: Path, seed: int) -> None:
    chance = random.Random(seed)
    whole = path.read_bytes()
    content = bytearray(whole)
    kind = chance.randrange(3)
    if kind == 0:
        for _ in range(chance.choice([1, 3, 100])):
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    elif kind == 1:
        del content[chance.randrange(len(content)) :]
    else:
        start = chance.randrange(len(content))
        content[start : start + 64] = bytes(64)
    path.write_bytes(content)
    try:
        state = load_state(path, CONFIG, 8)
    except InputError as error:
        assert str(path) in str(error)  # noqa: PT017 (one of the two outcomes)
        assert "rename previous.base.state.pt to base.state.pt to go on from step 10" in str(error)  # noqa: PT017
        assert len(str(error)) < 1000  # noqa: PT017
    else:  # the change lay in the archive's padding
        expected = _state(20)
        assert state.step == 20
        assert all(torch.equal(value, state.model[name]) for name, value in expected.model.items())
        assert all(torch.equal(value, state.average[name]) for name, value in expected.average.items())
        assert dataclasses.asdict(state)["optimizer"] == expected.optimizer


def test_a_state_that_is_not_finite_is_refused(path: Path) -> None:
    state = _state(30)
    state.model["a"][5] = float("nan")
    save_state(path, state, CONFIG, 8)
    with pytest.raises(InputError, match=r"not finite.*go on from step 20"):
        load_state(path, CONFIG, 8)


def test_without_a_state_before_one_starts_again(tmp_path: Path) -> None:
    (tmp_path / "base.state.pt").write_bytes(b"x")
    with pytest.raises(InputError, match=r"base\.state\.pt: damaged .* delete it to start again"):
        load_state(tmp_path / "base.state.pt", CONFIG, 8)


def test_the_second_run_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\nfrom qusr_train.training.lock import run_lock\n"
        "with run_lock(pathlib.Path(sys.argv[1])):\n    print('held', flush=True); sys.stdin.read()"
    )
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with (
            pytest.raises(InputError, match=f"another training is running in .*process {other.pid} on "),
            run_lock(tmp_path),
        ):
            pass
        other.kill()
    (tmp_path / f".qusr-{'0' * 32}.part").write_bytes(b"left by the one that was killed")
    (tmp_path / "mine.part").write_bytes(b"the user's")
    with run_lock(tmp_path):
        assert {file.name for file in tmp_path.iterdir()} == {"run.lock", "run.json", "mine.part"}


def test_a_part_file_of_the_users_own_is_not_touched(tmp_path: Path) -> None:
    mine = tmp_path / "model.safetensors.part"
    mine.write_bytes(b"mine")
    for write in (write_whole, write_new):
        with write(tmp_path / f"{write.__name__}.txt") as temporary:
            temporary.write_bytes(b"x")
    remove_leftovers(tmp_path, age=0.0)
    with write_whole(tmp_path / "model.safetensors") as temporary:  # which would be the temporary name of many programs
        temporary.write_bytes(b"x")
    assert mine.read_bytes() == b"mine"
    assert len(list(tmp_path.iterdir())) == 4


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    """/dev/full answers every write as a full disk does."""
    target = tmp_path / "photo.png"
    full = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(OSError, match="the disk is full") as caught, write_whole(target):
        os.write(full, b"x")
    os.close(full)
    assert str(target) in str(caught.value)
    assert list(tmp_path.iterdir()) == []
