"""Two processes that download the same file, and one that is killed."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from qusr_train.download.transfer import fetch
from tests.support.file_server import FileServer, Served
from tests.support.weights_file import CONTENT, beside, hub

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.usefixtures("quick")

RUN = (
    "import sys; from pathlib import Path; from qusr_train.download.connection import Source; "
    "from qusr_train.download.transfer import fetch; "
    "print(fetch(Source(sys.argv[1], etag_is_digest=True), Path(sys.argv[2])))"
)


def start(server: FileServer, target: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RUN, server.url + "/weights.bin", str(target)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_two_processes_download_it_once(server: FileServer, target: Path) -> None:
    gate = threading.Event()
    served = server.files["/weights.bin"] = Served.of_hub(CONTENT, gate=gate)
    first = start(server, target)
    assert served.at_gate.wait(60)
    second = start(server, target)
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(1.5)
    gate.set()
    outputs = [process.communicate(timeout=60)[0].strip() for process in (first, second)]
    assert outputs == ["verified with the sha256 that the server states", "another process did it meanwhile"]
    assert target.read_bytes() == CONTENT
    assert len(server.requests) == 1
    assert beside(target) == ["weights.bin"]


def test_a_killed_process_leaves_nothing_in_the_way(server: FileServer, target: Path) -> None:
    gate = threading.Event()
    served = server.files["/weights.bin"] = Served.of_hub(CONTENT * 8, gate=gate)
    process = start(server, target)
    assert served.at_gate.wait(60)
    process.kill()
    process.communicate()
    gate.set()
    served.gate = None
    assert fetch(hub(server), target) == "verified with the sha256 that the server states"
    assert target.read_bytes() == CONTENT * 8
    assert beside(target) == ["weights.bin"]
