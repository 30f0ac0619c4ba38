"""A real Chromium in front of a real ComfyUI, with both renderers.

The front end is the one ComfyUI pins; QUSR_FRONTEND=latest takes the newest from PyPI, pinned,latest both.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.support.browser import find_browser, newest_frontend
from tests.support.comfyui import Server

from .driver import ComfyPage


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    found = find_browser()
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=found.path,
            env=dict(found.env),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield running
        running.close()


FRONTENDS = os.environ.get("QUSR_FRONTEND", "pinned").split(",")
if not set(FRONTENDS) <= {"pinned", "latest"}:
    raise ValueError(f"QUSR_FRONTEND: expected pinned, latest or pinned,latest, but got {','.join(FRONTENDS)}")


@pytest.fixture(scope="session", params=FRONTENDS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    flags = [] if request.param == "pinned" else ["--front-end-root", str(newest_frontend())]
    with Server(flags=flags) as running:
        yield running


@pytest.fixture(scope="session", params=["classic", "nodes2"])
def page(request: pytest.FixtureRequest, server: Server, browser: Browser) -> Iterator[ComfyPage]:
    """ComfyUI in the browser, opened once for each renderer: opening takes longer than a test."""
    context = browser.new_context(viewport={"width": 1600, "height": 1000}, accept_downloads=True)
    context.set_default_timeout(180_000)  # of a busy machine
    opened = ComfyPage(context.new_page(), server)
    opened.open(nodes2=request.param == "nodes2")
    yield opened
    context.close()


@pytest.fixture
def comfy(page: ComfyPage) -> Iterator[ComfyPage]:
    """The opened page; the test fails if one of our scripts logged an error."""
    page.errors.clear()
    page.value("() => sessionStorage.clear()")  # where the test before looked at
    yield page
    assert page.errors == []
