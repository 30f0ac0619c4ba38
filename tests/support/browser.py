"""A headless Chromium and a newer front end for the browser tests. Nothing here needs root.

The browser is `CHROMIUM_PATH` when that is set, else a Chromium on the PATH, else the one in the npm package
`@sparticuz/chromium`, which brings the libraries and fonts that a bare machine lacks (Linux on x86-64).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.comfyui import HOST, ROOT

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
FRONTEND = "comfyui-frontend-package"
JS_TOOLS = ROOT / "tests" / "js"


@dataclass(frozen=True)
class Browser:
    """How to start it."""

    path: str
    env: dict[str, str] = field(default_factory=dict)


def _from_npm() -> Browser:
    """Unpack the npm package's Chromium, its libraries and its fonts."""
    folder = HOST / "chromium"
    program = folder / "chromium"
    if not program.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        script = "import('@sparticuz/chromium').then(m => m.default.executablePath())"
        # The package unpacks into the temp folder, and its libraries only where it believes to be in this place.
        env = {**os.environ, "TMPDIR": str(folder), "AWS_EXECUTION_ENV": "AWS_Lambda_nodejs22.x"}
        node = shutil.which("node", path=str(Path(sys.executable).parent)) or "node"
        done = subprocess.run([node, "-e", script], cwd=JS_TOOLS, env=env, check=False)
        if done.returncode or not program.is_file():
            shutil.rmtree(folder, ignore_errors=True)
            raise RuntimeError("no Chromium: install one (apt install chromium) or set CHROMIUM_PATH to one")
    return Browser(
        str(program), {"LD_LIBRARY_PATH": str(folder / "al2023" / "lib"), "FONTCONFIG_PATH": str(folder / "fonts")}
    )


def find_browser() -> Browser:
    """A Chromium that can be started.

    Raises:
        RuntimeError: CHROMIUM_PATH is wrong, or there is none and none can be fetched.
    """
    given = os.environ.get("CHROMIUM_PATH")
    if given == "npm":
        return _from_npm()
    if given:
        if not Path(given).is_file():
            raise RuntimeError(f"CHROMIUM_PATH={given}: no such file; point it at a Chromium or Chrome program")
        return Browser(given)
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    return Browser(found) if found else _from_npm()


def newest_frontend() -> Path:
    """The newest comfyui-frontend-package, unpacked; fetched once (delete .comfyui/frontend to fetch it again)."""
    folder = HOST / "frontend"
    static = folder / "comfyui_frontend_package" / "static"
    if not (static / "index.html").is_file():
        HOST.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=HOST) as work:
            command = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "-q",
                "--no-deps",
                "-d",
                work,
                "comfyui-frontend-package",
            ]
            if subprocess.run(command, check=False).returncode:
                raise RuntimeError("could not download comfyui-frontend-package with pip")
            shutil.rmtree(folder, ignore_errors=True)
            with zipfile.ZipFile(next(Path(work).glob("*.whl"))) as archive:
                archive.extractall(folder)
    return static
