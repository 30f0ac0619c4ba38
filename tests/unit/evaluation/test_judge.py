"""Pictures spread over processes: the same figures, the same errors, and an end on Ctrl-C."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from qusr_train.cli.main import main
from qusr_train.errors import InputError, RunError
from qusr_train.evaluation import judge
from qusr_train.evaluation.evaluate import evaluate_folders
from qusr_train.evaluation.judge import PICTURES_EACH, Pair, Settings, choose_processes, judge_all
from qusr_train.images.map_file import write_map

ROOT = Path(__file__).resolve().parents[3]


def _pairs(folder: Path, count: int, side: int = 32) -> None:
    random = np.random.default_rng(0)
    for part in ("pred", "gt", "maps"):
        (folder / part).mkdir()
    for index in range(count):
        truth = random.integers(40, 210, (side, side, 3))
        error = random.integers(-30, 30, truth.shape)
        Image.fromarray(truth.astype(np.uint8)).save(folder / "gt" / f"{index}.png")
        Image.fromarray((truth + error).astype(np.uint8)).save(folder / "pred" / f"{index}.png")
        write_map(folder / "maps" / f"{index}.npy", np.abs(error).mean(2).astype(np.float32) + 1)


def test_figures_do_not_depend_on_the_processes(tmp_path: Path) -> None:
    _pairs(tmp_path, 5)
    seen: list[tuple[int, int]] = []

    def report(processes: int) -> object:
        return evaluate_folders(
            tmp_path / "pred", tmp_path / "gt", maps=tmp_path / "maps", processes=processes,
            each=lambda done, total: seen.append((done, total)),
        )  # fmt: skip

    assert report(2) == report(1)
    assert seen == [(i + 1, 5) for i in range(5)] * 2


def test_a_bad_pair_is_named_from_another_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _pairs(tmp_path, 3)
    Image.new("RGB", (32, 16)).save(tmp_path / "pred" / "1.png")
    flags = ["evaluate", "--pred", str(tmp_path / "pred"), "--gt", str(tmp_path / "gt"), "--processes", "2"]
    assert main([*flags, "--json", str(tmp_path / "report.json")]) == 2
    assert "1.png: prediction is 32 x 16, ground truth 32 x 32" in capsys.readouterr().err
    assert not (tmp_path / "report.json").exists()
    assert main([*flags[:-1], "-1"]) == 2
    assert "--processes -1: expected at least 1" in capsys.readouterr().err


def test_a_process_that_is_killed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _pairs(tmp_path, 2)
    pairs = [Pair(tmp_path / "pred" / f"{i}.png", tmp_path / "gt" / f"{i}.png") for i in range(2)]
    monkeypatch.setattr(judge, "_judge", _dies)
    with pytest.raises(RunError, match="processes 2: a process was ended from outside"):
        list(judge_all(Settings(("psnr",)), pairs, 2))


def _dies(_pair: Pair) -> None:
    os.kill(os.getpid(), signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)


def test_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "usable_cores", lambda: 4)
    assert choose_processes(PICTURES_EACH * 2 - 1) == 1, "too few pictures for a second"
    assert choose_processes(PICTURES_EACH * 2) == 2
    assert choose_processes(1000) == 4
    assert choose_processes(1000, "cuda") == 1
    with pytest.raises(InputError, match="unknown metric"):
        evaluate_folders(".", ".", ("vmaf",), processes=4)


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT for one process")
def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    _pairs(tmp_path, 40, side=256)
    command = [sys.executable, "-m", "qusr_train", "evaluate", "--pred", str(tmp_path / "pred")]
    command += ["--gt", str(tmp_path / "gt"), "--processes", "2", "--json", str(tmp_path / "report.json")]
    # A shell that runs the tests in the background lets them ignore SIGINT, and children inherit that.
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=heard
    ) as running:
        own = psutil.Process(running.pid)
        workers: list[psutil.Process] = []
        for _ in range(600):
            workers = [one for one in own.children(recursive=True) if "spawn_main" in " ".join(one.cmdline())]
            if len(workers) == 2 or running.poll() is not None:
                break
            time.sleep(0.1)
        assert len(workers) == 2, "both processes have started"
        running.send_signal(signal.SIGINT)
        _, messages = running.communicate(timeout=120)
    assert running.returncode == 130
    assert messages.rstrip().endswith("interrupted"), messages[-500:]
    assert "Traceback" not in messages
    psutil.wait_procs(workers, timeout=30)
    assert not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in workers)
    assert not (tmp_path / "report.json").exists()
