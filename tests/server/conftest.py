"""One real ComfyUI server for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from qusr_train.captions.key import HOSTS_VARIABLE, KEY_VARIABLE
from tests.support.comfyui import Server

KEY = "sk-server-test-0123456789-abcdef"
"""The user's key for a caption server, which ComfyUI is started with."""


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(KEY_VARIABLE, KEY)
        environment.setenv(HOSTS_VARIABLE, "127.0.0.1")
        with Server() as running:
            yield running


@pytest.fixture(scope="session")
def object_info(server: Server) -> dict[str, Any]:
    return server.get("/object_info")
