"""`make gpu` on a CPU: every part runs, in its tiny form, so that the command is ready for a device."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_part_runs_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.bench.gpu", "--device", "cpu", "--out", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    page = (tmp_path / "CPU.md").read_text()
    for part in ("## Parity", "## Inference", "## Training", "## Offloading"):
        assert part in page
    for row in (
        "| 64 | plain diffusers |",
        "| plain | no |",
        "| cached | bf16 |",
        "| compiled | bf16 |",
        "| 64 | none |",
    ):
        assert row in page
    assert "Failed" not in page
    assert page.count("| ours, in tiles |") == 2
