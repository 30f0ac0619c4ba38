"""The `caption` command: one line for each image, resumed after a kill, in one process or two."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from qusr_train.captions.captioner import Caption, CaptionError, Progress
from qusr_train.captions.folder import Outcome, caption_folder, read_lines
from qusr_train.cli.main import main
from tests.support.chat_server import ChatServer
from tests.support.tiny_qwen import build

WriteImage = Callable[..., Path]
ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder(tmp_path: Path, write_image: WriteImage) -> Path:
    for number in range(7):
        write_image(tmp_path / "data" / ("sub" if number > 4 else ".") / f"{number}.png", (30 + number, 24))
    return tmp_path / "data"


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


NAMES = ["0.png", "1.png", "2.png", "3.png", "4.png", "sub/5.png", "sub/6.png"]


class Counting:
    identity = "counting"

    def __init__(self, fail_widths: Sequence[int] = ()) -> None:
        self.widths: list[int] = []
        self.fail_widths = fail_widths

    def describe(self, images: Sequence[Tensor], progress: Progress) -> list[Caption]:
        if any(image.shape[2] in self.fail_widths for image in images):
            raise CaptionError("too hard")
        self.widths += [image.shape[2] for image in images]
        return [Caption(f"width {image.shape[2]}") for image in images]


def test_measured_by_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "captions.jsonl"
    assert main(["caption", str(folder), "--out", str(out)]) == 0
    assert "7 images captioned (" in capsys.readouterr().out
    lines = _lines(out)
    assert [line["file"] for line in lines] == NAMES
    assert all(line["text"].startswith("The low-resolution image has ") for line in lines)
    assert set(lines[0]["numbers"]) >= {"blur_x", "noise", "blocking"}
    assert [path.name for path in tmp_path.iterdir()] == ["data", "captions.jsonl"] or not list(
        tmp_path.glob("*.part*")
    )
    before = out.read_bytes()
    assert main(["caption", str(folder), "--out", str(out)]) == 0
    assert "0 images captioned (0.0 per second), 7 known already" in capsys.readouterr().out
    assert out.read_bytes() == before


def test_only_what_is_missing_is_asked(folder: Path, tmp_path: Path, write_image: WriteImage) -> None:
    out = tmp_path / "captions.jsonl"
    caption_folder(folder, Counting(), out)
    write_image(folder / "new.png", (99, 24))
    again = Counting()
    assert caption_folder(folder, again, out) == Outcome(1, 7, 0)
    assert again.widths == [99]
    assert [line["file"] for line in _lines(out)] == [*NAMES[:5], "new.png", *NAMES[5:]]


def test_a_line_cut_by_a_kill_is_asked_again(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "captions.jsonl"
    whole = json.dumps({"file": "0.png", "text": "kept", "captioner": "counting"})
    (tmp_path / "captions.jsonl.part-0").write_text(f'{whole}\n{{"file": "1.png", "te', encoding="utf-8")
    counting = Counting()
    assert caption_folder(folder, counting, out) == Outcome(6, 1, 0)
    assert 30 not in counting.widths
    assert [line["text"] for line in _lines(out)][:2] == ["kept", "width 31"]


def test_another_captioner_or_file_is_refused(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "captions.jsonl"
    caption_folder(folder, Counting(), out)
    other = Counting()
    other.identity = "other"
    with pytest.raises(ValueError, match=r"was made by another captioner \('counting', now 'other'\)"):
        caption_folder(folder, other, out)
    out.write_text("hello\nworld\n")
    with pytest.raises(ValueError, match="line 1 is not a caption"):
        caption_folder(folder, other, out)
    assert out.read_text() == "hello\nworld\n"


def test_broken_images_and_answers_are_left_out_and_tried_again(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "broken.png").write_bytes(b"no picture")
    out = tmp_path / "captions.jsonl"
    assert caption_folder(folder, Counting(fail_widths=[32]), out) == Outcome(6, 0, 2)
    assert "broken.png: cannot be read" in caplog.text
    assert "2.png: too hard" in caplog.text
    (folder / "broken.png").unlink()
    assert caption_folder(folder, Counting(), out) == Outcome(1, 6, 0)
    assert [line["file"] for line in _lines(out)] == NAMES


def test_a_captioner_that_can_nothing_stops_early(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CaptionError, match="none of the first 2 images"):
        caption_folder(folder, Counting(fail_widths=range(30, 40)), tmp_path / "c.jsonl", chunk=2)


def test_server_by_command(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "captions.jsonl"
    with ChatServer(script=["busy", "cut"]) as first, ChatServer() as second:
        arguments = ["--captioner", "server", "--model", "m", "--server", first.address, "--server", second.address]
        assert main(["caption", str(folder), "--out", str(out), *arguments]) == 0
        assert len(first.asked) + len(second.asked) == 7 + 2
        assert second.asked
    assert [line["text"] for line in _lines(out)] == [f"A picture of {30 + n} x 24." for n in range(7)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--captioner", "server"], "--model: is needed for --captioner server"),
        (["--captioner", "server", "--model", "m"], "--server: is empty; give the server"),
        (["--captioner", "qwen", "--model", "nowhere"], "holds no readable config.json"),
    ],
)
def test_flags_that_are_missing_are_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["caption", str(folder), "--out", str(tmp_path / "c.jsonl"), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_killed_run_goes_on(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "captions.jsonl"
    with ChatServer(delay=0.3) as server:
        command = [
            sys.executable, "-m", "qusr_train", "caption", str(folder), "--out", str(out), "--captioner", "server",
            "--model", "m", "--server", server.address, "--workers", "1",
        ]  # fmt: skip
        running = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        part = tmp_path / "captions.jsonl.part-0"
        for _ in range(600):
            if part.exists() and part.read_bytes().count(b"\n") >= 4:
                break
            time.sleep(0.05)
        running.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
        running.wait()
        assert not out.exists()
        kept = len(read_lines(part))
        assert kept >= 4
        asked = len(server.asked)
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert len(server.asked) - asked == 7 - kept
    assert [line["file"] for line in _lines(out)] == NAMES
    assert not list(tmp_path.glob("*.part*"))


def _launch(folder: Path, out: Path, *arguments: str) -> str:
    # What `accelerate launch` starts underneath; its own command refuses several processes on a CPU.
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "qusr_train",
        "caption", str(folder), "--out", str(out), *arguments,
    ]  # fmt: skip
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_two_processes_share_the_work(folder: Path, tmp_path: Path) -> None:
    alone, shared = tmp_path / "alone.jsonl", tmp_path / "shared.jsonl"
    assert main(["caption", str(folder), "--out", str(alone)]) == 0
    printed = _launch(folder, shared)
    assert "4 images captioned" in printed
    assert "3 images captioned" in printed
    assert shared.read_bytes() == alone.read_bytes()
    assert not list(tmp_path.glob("*.part*"))


def test_two_processes_with_a_local_model(folder: Path, tmp_path: Path) -> None:
    model = build(tmp_path / "tiny")
    flags = ["--captioner", "qwen", "--model", str(model), "--max_words", "5", "--device", "cpu"]
    alone, shared = tmp_path / "alone.jsonl", tmp_path / "shared.jsonl"
    assert main(["caption", str(folder), "--out", str(alone), *flags]) == 0
    _launch(folder, shared, *flags)
    assert shared.read_bytes() == alone.read_bytes()
    assert len({line["text"] for line in _lines(alone)}) > 1
