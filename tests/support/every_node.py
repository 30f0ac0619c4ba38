"""Run every node once and print what became of it, as JSON: a node's id -> "" or its error."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from . import golden
from .chat_server import ChatServer
from .pack import import_comfyui, import_pack
from .tiny_qwen import build


class _Runs:
    """Runs nodes by id and keeps their errors."""

    def __init__(self, pack: Any) -> None:
        self.nodes = {cls.__name__: cls for cls in pack.nodes.NODES}
        self.outcomes: dict[str, str] = {}

    def __call__(self, name: str, *values: Any, check: dict[str, Any] | None = None) -> tuple[Any, ...]:
        cls = self.nodes[name]
        try:
            if check is not None:
                told = cls.validate_inputs(**check)
                if told is not True:
                    raise ValueError(told)
            outputs = cls.execute(*values).args
        except (ValueError, RuntimeError) as error:
            self.outcomes[name] = f"{type(error).__name__}: {error}"
            return ()
        self.outcomes[name] = ""
        return outputs


def run_all(run: _Runs, folder: Path) -> None:
    """Everything that the templates do and more, on nano, the golden model and a tiny Qwen."""
    import folder_paths

    models = {"qusr": golden.GOLDEN / "checkpoints", "LLM": folder / "LLM"}
    build(models["LLM"] / "tiny")
    for kind, place in models.items():
        folder_paths.folder_names_and_paths[kind] = ([str(place)], {".pkl", ".safetensors"})
    (folder / "input").mkdir()
    folder_paths.set_input_directory(str(folder / "input"))
    folder_paths.set_output_directory(str(folder / "output"))
    folder_paths.set_temp_directory(str(folder / "temp"))
    folder_paths.set_user_directory(str(folder / "user"))

    small, _ = run("QUSRExamplePhoto")
    small = small[:, 60:84, 60:84]
    model, clip, vae, uem = run("QUSRNanoLoader", 1.0)
    run(
        "QUSRLoader",
        golden.golden_unet(),
        "qusr.pkl",
        1.0,
        1.0,
        1.0,
        golden.golden_vae(),
        check={"checkpoint": "qusr.pkl"},
    )
    run("QUSRDownload", "taesd", False)
    tiles = run("QUSRPhotoTiles", small, 32, 8)
    prompts, _ = run("QUSRQualityPrompt", small)
    qwen = ("tiny", False, "", 4, 0.0, 0, "auto", "none", "auto", False)
    run("QUSRQwenPrompt", small, *qwen, check={"model": "tiny", "download": False})
    with ChatServer() as chat:
        run("QUSRServerPrompt", small, chat.address, "any", "", 10, 0, "QUSR_API_KEY", 30.0)
    (large,) = run("QUSREnlarge", small, 4.0)
    conditioning = run("QUSREncodePrompt", [clip], prompts)[0]
    run("QUSRPhotoGuide", model, conditioning, large)
    uncertainty, _ = run("QUSRUncertainty", large, uem)
    noise, _ = run("QUSRAdaptiveNoise", vae, uncertainty, 0, 1.0, "auto")
    run("QUSRUncertaintyView", uncertainty, "turbo", 0.5, "auto", 0.0, 1.0, True, large, noise)
    (latent,) = run("QUSREncode", large, vae, 0, "exact")
    (restored,) = run("QUSROneStepDenoise", model, conditioning, latent, noise, 1.0, 0, 0)
    (decoded,) = run("QUSRDecode", restored, vae, 0, "exact")
    (fixed,) = run("QUSRColorFix", decoded, large, "wavelet")
    run("QUSRCompare", large, fixed)
    settings = (["balanced"], [0], [""], [1.0], [1.0], ["wavelet"])
    run("QUSRUpscale", [small], *settings, None, None, None, None, [tiles[1]])
    training = (str(folder / "input"), "run", "qusr-nano", 1, 1, 64, 1)
    run("QUSRTrain", *training, check={"model": "qusr-nano"})
    logged = folder / "output" / "qusr-training" / "run" / "base.metrics.jsonl"
    logged.parent.mkdir(parents=True, exist_ok=True)
    logged.write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.4}\n')
    run("QUSRLossPlot", str(logged.parent))


if __name__ == "__main__":
    import torch

    import_comfyui(cpu=True)
    runs = _Runs(import_pack())
    with tempfile.TemporaryDirectory() as place, torch.inference_mode():
        run_all(runs, Path(place))
    print(json.dumps({name: runs.outcomes.get(name, "not run") for name in runs.nodes}))
