"""QUSRLoader refuses by name what does not fit, and finds files where ComfyUI keeps them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.support import golden

CHECKPOINTS = golden.GOLDEN / "checkpoints"
INSTEAD = "load SD 2.1-base"


@pytest.fixture
def folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """Two folders of the kind `qusr`, as with an extra_model_paths.yaml."""
    import folder_paths

    paths = [tmp_path / "models", tmp_path / "elsewhere"]
    for path in paths:
        path.mkdir()
    _, suffixes = folder_paths.folder_names_and_paths["qusr"]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "qusr", ([str(p) for p in paths], suffixes))
    folder_paths.filename_list_cache.pop("qusr", None)
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "loras", ([str(tmp_path / "loras")], {".safetensors", ".pkl"})
    )
    folder_paths.filename_list_cache.pop("loras", None)
    return paths


def _options(node: Any) -> list[str]:
    schema = node.QUSRLoader.define_schema()
    return next(i for i in schema.inputs if i.id == "checkpoint").options


def _load(node: Any, model: Any, name: str = "qusr.pkl", vae: Any = None, **strengths: float) -> Any:
    settings = {"strength": 1.0, "pixel": 1.0, "semantic": 1.0, **strengths}
    return node.QUSRLoader.execute(model=model, checkpoint=name, vae=vae, **settings).args


def test_every_folder_of_the_kind_is_searched(node: Any, folders: list[Path]) -> None:
    assert _options(node) == ["(put a file into models/qusr)"]
    shutil.copy(CHECKPOINTS / "qusr.pkl", folders[1] / "mine.pkl")
    (folders[0] / "notes.txt").write_text("no model")
    import folder_paths

    folder_paths.filename_list_cache.pop("qusr", None)
    assert _options(node) == ["mine.pkl"]
    _, uem, vae = _load(node, golden.golden_unet(), "mine.pkl")
    assert uem.patcher is not None
    assert vae is None


def test_files_of_the_family_kept_among_the_loras_are_offered(
    node: Any, pack: Any, folders: list[Path], tmp_path: Path
) -> None:
    import folder_paths

    loras = tmp_path / "loras"
    (loras / "sr").mkdir(parents=True)
    shutil.copy(CHECKPOINTS / "pisa_sr.pkl", loras / "sr")
    shutil.copy(CHECKPOINTS / "qusr.pkl", loras)
    load = pack.qusr_train.checkpoints.load
    pack.qusr_train.checkpoints.qusr_file.save_qusr(
        loras / "mine.safetensors", load.load_checkpoint(loras / "qusr.pkl")
    )
    # What else may lie there: another LoRA, another pickle, half a download.
    save_file({"lora_unet.lora_down.weight": torch.zeros(4, 4)}, loras / "style.safetensors")
    torch.save({"weight": torch.zeros(2)}, loras / "other.pkl")
    (loras / "cut.pkl").write_bytes((loras / "qusr.pkl").read_bytes()[:1000])
    assert _options(node) == ["mine.safetensors", "qusr.pkl", str(Path("sr", "pisa_sr.pkl"))]
    assert node.QUSRLoader.validate_inputs(checkpoint="qusr.pkl") is True
    assert _load(node, golden.golden_unet(), "mine.safetensors")[1].patcher is not None

    shutil.copy(CHECKPOINTS / "pisa_sr.pkl", folders[0] / "qusr.pkl")
    folder_paths.filename_list_cache.pop("qusr", None)
    assert _options(node).count("qusr.pkl") == 1
    assert _load(node, golden.golden_unet(), "qusr.pkl")[1].patcher is None, "models/qusr comes first"


def test_the_default_folder_is_registered(pack: Any) -> None:
    import folder_paths

    assert str(Path(folder_paths.models_dir) / "qusr") in folder_paths.get_folder_paths("qusr")


def test_missing_file_is_named_with_the_folders(node: Any, folders: list[Path]) -> None:
    with pytest.raises(ValueError, match=r"gone\.pkl is not there .*elsewhere.*press R"):
        _load(node, golden.build_unet(), "gone.pkl")
    assert "gone.pkl is not there" in node.QUSRLoader.validate_inputs(checkpoint="gone.pkl")


@pytest.mark.parametrize(
    ("kind", "changes", "v_prediction", "message"),
    [
        ("SD15", {"context_dim": 24, "use_linear_in_transformer": False}, False, "is Stable Diffusion 1.x"),
        ("SDXL", {"context_dim": 64}, False, "is SDXL"),
        ("SD20", {}, True, r"v-prediction \(the 768 px model\)"),
        ("SD20", {"model_channels": 64}, False, r"is Stable Diffusion 2.x, but .* \(layer conv_in needs"),
    ],
)
def test_another_base_is_refused_by_name(
    node: Any, folders: list[Path], kind: str, changes: dict[str, Any], v_prediction: bool, message: str
) -> None:
    shutil.copy(CHECKPOINTS / "qusr.pkl", folders[0])
    with pytest.raises(ValueError, match=message) as caught:
        _load(node, golden.build_unet(kind, v_prediction, **changes))
    assert INSTEAD in str(caught.value)


def test_nano_and_a_model_that_carries_one_already_are_refused(node: Any, nano: Any, folders: list[Path]) -> None:
    shutil.copy(CHECKPOINTS / "qusr.pkl", folders[0])
    with pytest.raises(ValueError, match="carries a one-step checkpoint already"):
        _load(node, nano.model)
    once = _load(node, golden.golden_unet())[0]
    with pytest.raises(ValueError, match="carries a one-step checkpoint already"):
        _load(node, once)


def test_osediff_asks_for_the_vae_and_refuses_another(node: Any, nano: Any, folders: list[Path]) -> None:
    shutil.copy(CHECKPOINTS / "osediff.pkl", folders[0])
    model = golden.golden_unet()
    with pytest.raises(ValueError, match="vae: OSEDiff files also change the VAE's encoder"):
        _load(node, model, "osediff.pkl")
    with pytest.raises(ValueError, match="vae: OSEDiff's LoRA does not fit"):
        _load(node, model, "osediff.pkl", vae=nano.vae)


def test_two_strengths_need_a_pisa_sr_file(node: Any, folders: list[Path]) -> None:
    shutil.copy(CHECKPOINTS / "qusr.pkl", folders[0])
    with pytest.raises(ValueError, match="only PiSA-SR files have these two LoRA"):
        _load(node, golden.golden_unet(), semantic=1.2)


def test_damaged_file_is_refused(node: Any, folders: list[Path]) -> None:
    (folders[0] / "cut.pkl").write_bytes((CHECKPOINTS / "qusr.pkl").read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"cut\.pkl.*(damaged|refused)"):
        _load(node, golden.build_unet(), "cut.pkl")


def test_a_changed_file_is_loaded_again(node: Any, folders: list[Path]) -> None:
    path = folders[0] / "mine.pkl"
    shutil.copy(CHECKPOINTS / "qusr.pkl", path)
    before = node.QUSRLoader.fingerprint_inputs(checkpoint="mine.pkl")
    import os

    os.utime(path, (1, 1))
    assert node.QUSRLoader.fingerprint_inputs(checkpoint="mine.pkl") != before


def test_a_file_without_uem_says_so_when_one_is_asked_for(node: Any, folders: list[Path], photo: Any) -> None:
    shutil.copy(CHECKPOINTS / "pisa_sr.pkl", folders[0])
    uem = _load(node, golden.golden_unet(), "pisa_sr.pkl")[1]
    with pytest.raises(ValueError, match="has no UEM"):
        node.QUSRUncertainty.execute(photo, uem, "model")
    uncertainty = node.QUSRUncertainty.execute(photo, uem, "auto").args[0]
    assert uncertainty.noise.p == 0


def _nano_options(node: Any) -> list[str]:
    schema = node.QUSRNanoLoader.define_schema()
    return next(i for i in schema.inputs if i.id == "checkpoint").options


def test_nano_loader_lists_nano_files_and_each_loader_names_the_other(
    node: Any, pack: Any, folders: list[Path]
) -> None:
    bundled = pack.nodes.load.BUNDLED_NANO
    assert _nano_options(node) == [bundled]
    shutil.copy(pack.qusr_train.checkpoints.nano_file.BUNDLED, folders[1] / "mine.safetensors")
    shutil.copy(CHECKPOINTS / "qusr.pkl", folders[0])
    (folders[0] / "cut.safetensors").write_bytes(b"\x10")
    import folder_paths

    folder_paths.filename_list_cache.pop("qusr", None)
    assert _nano_options(node) == [bundled, "mine.safetensors"]
    nano = node.QUSRNanoLoader
    assert nano.validate_inputs() is True
    assert nano.validate_inputs(checkpoint="mine.safetensors") is True
    assert "not a qusr-nano model; QUSR Loader (SD 2.1) is for" in nano.validate_inputs(checkpoint="qusr.pkl")
    assert "gone.safetensors is not there" in nano.validate_inputs(checkpoint="gone.safetensors")
    with pytest.raises(ValueError, match="is not there"):
        nano.execute(1.0, "gone.safetensors")
    instead = "mine.safetensors is a qusr-nano model, which needs no SD 2.1-base; choose it in QUSR Nano Loader"
    assert instead in node.QUSRLoader.validate_inputs(checkpoint="mine.safetensors")
    with pytest.raises(ValueError, match="choose it in QUSR Nano Loader"):
        _load(node, golden.build_unet(), "mine.safetensors")


def test_a_nano_file_that_was_trained_further_is_read_again(node: Any, pack: Any, folders: list[Path]) -> None:
    module = pack.qusr_train.checkpoints.nano_file
    path = folders[0] / "mine.safetensors"
    shutil.copy(module.BUNDLED, path)
    weight = "diffusion_model.conv_out.weight"
    values = []
    for factor in (1.0, 0.5):
        module.save_nano(path, module.scale_residual(module.load_nano(path), factor))
        model = node.QUSRNanoLoader.execute(0.0, path.name).args[0]
        values.append(model.model_state_dict()[weight].abs().mean().item())
    assert values[1] == pytest.approx(values[0] / 2, rel=1e-3)


@pytest.fixture
def codsr(node: Any, folders: list[Path]) -> Any:
    """The golden CODSR model, its UEM and its VAE."""
    shutil.copy(CHECKPOINTS / "codsr.pkl", folders[0])
    return _load(node, golden.golden_unet(), "codsr.pkl", vae=golden.golden_vae())


def test_codsr_asks_for_the_vae_and_for_its_look_at_the_photo(
    node: Any, core: Any, folders: list[Path], codsr: Any
) -> None:
    with pytest.raises(ValueError, match="vae: CODSR files also change the VAE's encoder"):
        _load(node, golden.golden_unet(), "codsr.pkl")
    conditioning = node.QUSREncodePrompt.execute([golden.golden_clip()], [""]).args[0]
    latent, noise = {"samples": torch.zeros(1, 4, 8, 8)}, core.sampling.DisableNoise.execute().args[0]
    with pytest.raises(ValueError, match=r"conditioning: a CODSR model looks at the photo .* put QUSR Photo Guide"):
        node.QUSROneStepDenoise.execute(codsr[0], conditioning, latent, noise, 1.0, 0, 0)


def test_codsr_restores_each_photo_of_a_batch_as_if_alone(node: Any, upscale: Any, codsr: Any) -> None:
    photos = torch.rand(2, 20, 24, 3, generator=torch.Generator().manual_seed(4))
    sockets = {"model": codsr[0], "clip": golden.golden_clip(), "vae": codsr[2], "uem": codsr[1], "prompt": "a"}
    both, uncertainty = upscale(photos, **sockets)[:2]
    assert both.shape == (2, 80, 96, 3)
    assert uncertainty.estimator == "sobel"


def test_variant_sobel_wants_the_estimator_sobel(node: Any, nano: Any, photo: torch.Tensor) -> None:
    enlarged = node.QUSREnlarge.execute(photo, 4.0).args[0]
    edges, contrast = (node.QUSRUncertainty.execute(enlarged, nano.uem, e).args[0] for e in ("sobel", "gradient"))
    noise = node.QUSRAdaptiveNoise.execute(nano.vae, edges, 1, 1.0, "sobel", p=1.0).args[0]
    assert noise.sigma.shape == (1, 48, *photo.shape[1:3])
    assert set(noise.sigma.unique().tolist()) <= set(edges.map.unique().tolist())
    with pytest.raises(
        ValueError, match="variant sobel takes the map of the estimator sobel, but this one is of gradient"
    ):
        node.QUSRAdaptiveNoise.execute(nano.vae, contrast, 1, 1.0, "sobel")


def test_a_vae_of_another_model_is_named(upscale: Any, nano: Any, photo: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"^vae: makes latents of 4 channels, but the model takes 48; connect"):
        upscale(photo, model=nano.model, clip=nano.clip, vae=golden.golden_vae(), uem=nano.uem)
