"""Training from a graph, in a real process: a file that the loader code takes, curves, refusals, Cancel."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.support import golden


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    array = (torch.rand(12, 12, 3) * 255).byte().numpy()
    (tmp_path / "photos").mkdir()
    Image.fromarray(array).resize((150, 150), Image.Resampling.BICUBIC).save(tmp_path / "photos" / "a.png")
    return tmp_path / "photos"


@pytest.fixture
def folders(pack: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ComfyUI's output and models/qusr in a place of the test's own."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path / "output"))
    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(tmp_path))
    (tmp_path / "qusr").mkdir()
    _, suffixes = folder_paths.folder_names_and_paths["qusr"]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "qusr", ([str(tmp_path / "qusr")], suffixes))
    for module in (pack.nodes.train, pack.nodes.native.places):  # it would add the real one
        monkeypatch.setattr(module, "register_model_folder", lambda: None)
    return tmp_path


MORE = '{"photo_factors": [1.0], "workers": 0, "precision": "no", "log_every": 1, "sample_every": 2, "tracker": "none"}'


def _train(node: Any, where: Path, /, **changes: Any) -> Any:
    inputs = {"photos": str(where), "name": "mine", "model": "qusr-nano", "steps": 2, "batch_size": 1, "patch": 64,
              "seed": 1, "more": MORE, **changes}  # fmt: skip
    return node.QUSRTrain.execute(**inputs).args


def test_trained_file_restores_a_photo(pack: Any, node: Any, photos: Path, folders: Path, photo: torch.Tensor) -> None:
    """QUSRTrain -> QUSRNanoLoader -> QUSRUpscale; the training is strong enough to be seen in the picture."""
    strong = json.dumps({**json.loads(MORE), "learning_rate": 0.01, "warmup": 0})
    (folders / "qusr" / "mine.safetensors").write_bytes(b"a file of the user's")
    checkpoint, run, samples = _train(node, photos, more=strong)
    assert checkpoint == "mine-2.safetensors"
    assert (folders / "qusr" / "mine.safetensors").read_bytes() == b"a file of the user's"
    assert samples.shape == (1, 64, 256, 3)  # input, result, target, uncertainty
    results = [_upscale(node, photo, name) for name in (checkpoint, pack.nodes.load.BUNDLED_NANO)]
    assert [result.shape for result in results] == [(1, 192, 160, 3)] * 2
    assert torch.isfinite(results[0]).all()
    assert 1e-3 < (results[0] - results[1]).abs().mean() < 0.2
    plot = node.QUSRLossPlot.execute(run).args[0]
    assert plot.shape[-1] == 3
    assert plot.min() < 0.5 < plot.max()


def _upscale(node: Any, photo: torch.Tensor, checkpoint: str) -> torch.Tensor:
    assert node.QUSRNanoLoader.validate_inputs(checkpoint=checkpoint) is True
    model, clip, vae, uem = node.QUSRNanoLoader.execute(1.0, checkpoint).args
    return node.QUSRUpscale.execute(
        [photo], preset=["balanced"], seed=[1], prompt=[""], strength=[1.0], noise_strength=[1.0],
        color_fix=["none"], model=[model], clip=[clip], vae=[vae], uem=[uem],
    ).args[0][0]  # fmt: skip


def test_trained_sd21_file_restores_a_photo_through_qusr_loader(
    node: Any, photos: Path, folders: Path, photo: torch.Tensor, tmp_path: Path
) -> None:
    """The same for SD 2.1's structure, 32 channels wide: the golden model, trained and loaded as the real one is."""
    from transformers import CLIPTextConfig, CLIPTextModel

    base = tmp_path / "base"
    base.mkdir()
    for part in ("unet", "vae"):
        (base / part).symlink_to(golden.GOLDEN / "model" / part, target_is_directory=True)
    settings = json.loads((golden.GOLDEN / "model" / "text_encoder" / "config.json").read_text())
    CLIPTextModel(CLIPTextConfig(**settings)).save_pretrained(base / "text_encoder")
    tiny = {**json.loads(MORE), "lpips_weight": 0.0, "uem_channels": 4, "learning_rate": 1e-3}
    checkpoint, _, samples = _train(
        node, photos, model="SD 2.1-base", base_folder=str(base), more=json.dumps(tiny), name="mine-sd"
    )
    assert samples.shape == (1, 64, 256, 3)
    assert node.QUSRLoader.validate_inputs(checkpoint=checkpoint) is True
    vae, plain = golden.golden_vae(), golden.golden_unet()
    model, uem, _ = node.QUSRLoader.execute(plain, checkpoint, 1.0, 1.0, 1.0, vae).args
    layer = "diffusion_model.input_blocks.0.0.weight"
    assert layer in model.patches
    assert layer not in plain.patches
    result = node.QUSRUpscale.execute(
        [photo], preset=["balanced"], seed=[1], prompt=["blurry"], strength=[1.0], noise_strength=[1.0],
        color_fix=["none"], model=[model], clip=[golden.golden_clip()], vae=[vae], uem=[uem],
    ).args[0][0]  # fmt: skip
    assert result.shape == (1, 192, 160, 3)
    assert torch.isfinite(result).all()


def test_cancel_stops_the_process_and_keeps_its_state(
    pack: Any, node: Any, photos: Path, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.model_management as management

    state = folders / "output" / "qusr-training" / "mine" / "qusr.metrics.jsonl"

    def cancel() -> None:
        while not state.exists():
            time.sleep(0.05)
        management.interrupt_current_processing()

    thread = threading.Thread(target=cancel, daemon=True)
    thread.start()
    with pytest.raises(management.InterruptProcessingException):
        _train(node, photos, steps=100_000)
    thread.join(5)
    assert (state.parent / "qusr.state.pt").is_file()
    assert not (folders / "qusr" / "mine.safetensors").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"photos": "nowhere"}, "photos: nothing at '.*nowhere'"),
        ({"name": "../x"}, "name: use letters"),
        ({"more": "{"}, "more: expected a JSON object"),
        ({"more": '{"step": 3}'}, "more: a workflow may not set step"),
        ({"model": "SD 2.1-base"}, "base_folder: expected a path"),
    ],
)
def test_bad_input_is_named(node: Any, photos: Path, folders: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _train(node, photos, **changes)


def test_failure_says_why(node: Any, photos: Path, folders: Path) -> None:
    with pytest.raises(RuntimeError, match=r"training failed.*no photo is at least 512 pixels"):
        _train(node, photos, patch=512)


def test_plot_without_a_run(node: Any, folders: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run: no training has logged anything"):
        node.QUSRLossPlot.execute(str(tmp_path))
