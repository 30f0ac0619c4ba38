"""Pictures and interrupts in a running ComfyUI, a few; `make attack` does thousands."""

from __future__ import annotations

from tests.attacks import served
from tests.support.comfyui import Server


def test_the_same_pictures_come_out_each_time(server: Server) -> None:
    seen = served.images(server, served.KINDS + 20)
    assert seen["wrong"] == 0
    assert seen["last"][3] < 100, "files in temp"


def test_a_run_after_an_interrupt_is_right(server: Server) -> None:
    seen = served.interrupts(server, 2)
    assert seen["wrong runs after"] == seen["files left"] == 0
