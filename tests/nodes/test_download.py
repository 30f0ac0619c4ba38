"""QUSRDownload in ComfyUI's own folders, from a loopback mirror."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.file_server import FileServer, Served


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A mirror of Hugging Face with TAESD on it."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with FileServer() as server:
        for part in ("encoder", "decoder"):
            path = f"/madebyollin/taesd/resolve/main/taesd_{part}.safetensors"
            server.files[path] = Served.of_hub(part.encode() * 50_000)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """ComfyUI's folders moved below `tmp_path`, and a second set that an extra_model_paths.yaml adds."""
    import folder_paths
    from utils.extra_config import load_extra_path_config

    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "models"))
    moved = {
        kind: ([str(tmp_path / "models" / kind)], folder_paths.folder_names_and_paths[kind][1])
        for kind in ("vae_approx", "vae", "checkpoints")
    }
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", moved)
    (tmp_path / "extra.yaml").write_text(
        "other:\n  base_path: other_disk\n  vae_approx: approx\n  checkpoints: ckpt\n  qusr: restorers\n"
    )
    load_extra_path_config(str(tmp_path / "extra.yaml"))
    return folder_paths


def test_nothing_is_downloaded_before_the_user_says_so(node: Any, mirror: FileServer, folders: Any) -> None:
    output = node.QUSRDownload.execute("taesd", False)
    assert "taesd_decoder.safetensors: missing" in output.args[0]
    assert "switch 'download' on" in output.args[0]
    assert output.ui.as_dict() == {"text": (output.args[0],)}
    assert not mirror.requests


def test_download_into_the_folder_where_comfyui_finds_it(
    node: Any, core: Any, mirror: FileServer, folders: Any, tmp_path: Path
) -> None:
    from comfy.taesd.taesd import Decoder, Encoder
    from safetensors.torch import save

    for part, network in (("encoder", Encoder()), ("decoder", Decoder())):
        path = f"/madebyollin/taesd/resolve/main/taesd_{part}.safetensors"
        mirror.files[path] = Served.of_hub(save(network.state_dict()))
    text = node.QUSRDownload.execute("taesd", True).args[0]
    assert text.count("downloaded; verified with the sha256 that the server states") == 2
    assert sorted(path.name for path in (tmp_path / "models" / "vae_approx").iterdir()) == [
        "taesd_decoder.safetensors",
        "taesd_encoder.safetensors",
    ]
    assert "taesd" in core.nodes.VAELoader.vae_list(core.nodes.VAELoader)
    (vae,) = core.nodes.VAELoader().load_vae("taesd")
    assert vae.decode(torch.zeros(1, 4, 2, 2)).shape == (1, 16, 16, 3)
    mirror.requests.clear()
    assert node.QUSRDownload.execute("taesd", True).args[0].count("already there") == 2
    assert not mirror.requests


def test_folders_of_extra_model_paths_are_looked_through(
    node: Any, mirror: FileServer, folders: Any, tmp_path: Path
) -> None:
    for kind, name in (
        ("approx", "taesd_encoder.pth"),
        ("approx", "taesd_decoder.safetensors"),
        ("ckpt/sd2", "v2-1_512-ema-pruned.safetensors"),
        ("restorers", "osediff.pkl"),
    ):
        path = tmp_path / "other_disk" / kind / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"weights")
    for model in ("taesd", "sd-2.1-base", "osediff"):
        text = node.QUSRDownload.execute(model, True).args[0]
        assert "already there" in text
        assert "missing" not in text
        assert str(tmp_path / "other_disk") in text
    assert not mirror.requests


def test_own_kind_of_folder_is_below_the_models_folder(node: Any, folders: Any, tmp_path: Path) -> None:
    folders.folder_names_and_paths.pop("qusr")
    assert str(tmp_path / "models" / "qusr" / "osediff.pkl") in node.QUSRDownload.execute("osediff", False).args[0]


def test_progress_is_shown_on_the_node(
    node: Any, mirror: FileServer, folders: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.utils

    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, *_, **__: seen.append((value, total)))
    node.QUSRDownload.execute("taesd", True)
    assert seen[0] == (0, 350_000)
    assert seen.count((350_000, 350_000)) >= 2


def test_cancel_stops_the_download_and_the_next_run_goes_on(
    node: Any, mirror: FileServer, folders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.model_management as management
    import comfy.utils

    def cancel(value: int, total: int, *_: Any, **__: Any) -> None:
        if value:
            management.interrupt_current_processing()

    monkeypatch.setattr(sys.modules["qusr_pack.qusr_train.download.transfer"], "REPORT_EVERY", 0.0)
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", cancel)
    with pytest.raises(management.InterruptProcessingException):
        node.QUSRDownload.execute("taesd", True)
    assert not (tmp_path / "models" / "vae_approx" / "taesd_encoder.safetensors").exists()
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", None)
    node.QUSRDownload.execute("taesd", True)
    content = (tmp_path / "models" / "vae_approx" / "taesd_encoder.safetensors").read_bytes()
    assert content == b"encoder" * 50_000
    assert any(header and header.startswith("bytes=") for header in mirror.headers("Range"))


def test_errors_reach_the_user(node: Any, mirror: FileServer, folders: Any) -> None:
    with pytest.raises(ValueError, match=r"v2-1_512-ema-pruned\.safetensors: not found \(404\).*models/checkpoints"):
        node.QUSRDownload.execute("sd-2.1-base", True)


def test_the_node_looks_again_at_every_run(node: Any) -> None:
    first, second = (node.QUSRDownload.fingerprint_inputs(model="taesd", download=True) for _ in range(2))
    assert first != second
