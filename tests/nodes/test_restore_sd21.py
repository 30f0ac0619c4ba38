"""`restore` without ComfyUI and the nodes give the same picture; single files are read as ComfyUI names them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from qusr_train.checkpoints.load import load_checkpoint
from qusr_train.checkpoints.lora_export import export_lora
from qusr_train.model.stable_diffusion import load_stable_diffusion
from qusr_train.restore_sd21 import load_sd21_restorer
from tests.support import golden
from tests.support.diffusers_model import golden_folder

GOLDEN = golden.GOLDEN


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return golden_folder(tmp_path_factory.mktemp("golden") / "model")


@pytest.fixture(scope="module")
def native() -> SimpleNamespace:
    return SimpleNamespace(model=golden.golden_unet(), clip=golden.golden_clip(), vae=golden.golden_vae())


@pytest.mark.parametrize("name", ["qusr", "pisa_sr", "osediff"])
def test_the_command_and_the_nodes_agree(pack: Any, native: SimpleNamespace, base: Path, name: str) -> None:
    """An odd size, so that both pad; the seeded noise and the wavelet fix of QUSR Upscale."""
    path = GOLDEN / "checkpoints" / f"{name}.pkl"
    image = torch.rand((1, 3, 17, 22), generator=torch.Generator().manual_seed(3))
    prompt = golden.run("qusr_128").about["prompt"]
    nodes, checkpoint = pack.nodes, pack.qusr_train.checkpoints.load.load_checkpoint(path)
    models = nodes.native.sockets.LoadedModels(
        nodes.native.stable_diffusion.apply_checkpoint(native.model, checkpoint),
        native.clip,
        nodes.native.stable_diffusion.apply_to_vae(native.vae, checkpoint),
        nodes.native.stable_diffusion.loaded_uem(native.model, checkpoint),
    )
    checked = nodes.native.host.check_image(image.movedim(1, -1))
    with torch.inference_mode():
        tiles = nodes.tiles.whole_photo(checked.rgb)
        turned = nodes.dial.chosen(models.model, "balanced", 1.0, 1.0, 1.0)
        job = nodes.upscale.Job(models, turned, 7, "fixed", "wavelet", "factor", 4.0)
        there = nodes.upscale.upscale_batch(checked, [prompt], tiles, job)[0].movedim(-1, 1)
        here = load_sd21_restorer(path, base)(image, prompt, seed=7).image
    torch.testing.assert_close(here, there, atol=1e-4, rtol=0)


def _published(base: Path) -> dict[str, Tensor]:
    """The golden model under the names of the original code and OpenCLIP, by ComfyUI's own tables."""
    import comfy.diffusers_convert
    import comfy.utils

    names = comfy.utils.unet_to_diffusers(golden.build_unet().model.model_config.unet_config)
    unet = load_file(GOLDEN / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    vae = load_file(GOLDEN / "model" / "vae" / "diffusion_pytorch_model.safetensors")
    text = {
        name if name.startswith("text_model.") else f"text_model.{name}": value
        for name, value in load_file(base / "text_encoder" / "model.safetensors").items()
    }
    last = max(int(name.split(".")[3]) for name in text if ".layers." in name)
    unread = {n.replace(f".{last}.", f".{last + 1}."): v for n, v in text.items() if f".layers.{last}." in n}
    text = {name: value for name, value in {**text, **unread}.items() if "position_ids" not in name}
    return {
        **{f"model.diffusion_model.{names[name]}": value for name, value in unet.items()},
        **{f"first_stage_model.{n}": v for n, v in comfy.diffusers_convert.convert_vae_state_dict(vae).items()},
        **{f"cond_stage_model.model.{n}": v for n, v in _open_clip(text).items()},
    }


def _open_clip(text: dict[str, Tensor]) -> dict[str, Tensor]:
    import comfy.diffusers_convert

    return comfy.diffusers_convert.convert_text_enc_state_dict_v20({f"transformer.{n}": v for n, v in text.items()})


def test_single_file_is_the_folder(base: Path, tmp_path: Path) -> None:
    state = {name: value.contiguous().clone() for name, value in _published(base).items()}
    tells = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
    state[tells] *= 0.1  # random weights look like the 768 model
    save_file(state, tmp_path / "v2-1_512.safetensors")
    torch.save({"state_dict": state}, tmp_path / "v2-1_512.ckpt")
    folder = load_stable_diffusion(base)
    folder.unet.get_parameter("up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias").mul_(0.1)
    for suffix in ("safetensors", "ckpt"):
        file = load_stable_diffusion(tmp_path / f"v2-1_512.{suffix}", "base")
        assert dict(file.unet.config)["attention_head_dim"] == list(folder.unet.config.attention_head_dim)
        for one, other in ((file.unet, folder.unet), (file.vae, folder.vae), (file.text_encoder, folder.text_encoder)):
            assert one.state_dict().keys() == other.state_dict().keys()
            for key, value in other.state_dict().items():
                torch.testing.assert_close(one.state_dict()[key], value, atol=1e-4, rtol=1e-3, msg=key)
        torch.testing.assert_close(file.alphas_cumprod, folder.alphas_cumprod)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conditioner.embedders.0.x": torch.zeros(1)}, "is SDXL"),
        ({"cond_stage_model.transformer.x": torch.zeros(1)}, r"is Stable Diffusion 1\.x"),
        (
            {
                "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias": torch.linspace(-1, 1, 32),
            },
            "predicts v, so it is the 768 model",
        ),
    ],
)
def test_other_single_files_are_named(base: Path, tmp_path: Path, change: dict[str, Tensor], message: str) -> None:
    state = {name: value.contiguous().clone() for name, value in {**_published(base), **change}.items()}
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=message):
        load_stable_diffusion(tmp_path / "other.safetensors", "base")


def test_a_damaged_single_file_is_named(tmp_path: Path) -> None:
    for name in ("a.safetensors", "a.ckpt"):
        (tmp_path / name).write_bytes(b"not a model")
        with pytest.raises(ValueError, match=r"base .*: damaged or not a weight file"):
            load_stable_diffusion(tmp_path / name, "base")


def test_exported_lora_is_read_by_comfyuis_loader(pack: Any, tmp_path: Path) -> None:
    """kohya's form through Load LoRA gives the weights that QUSR Loader gives."""
    import comfy.sd
    import comfy.utils

    source = GOLDEN / "checkpoints" / "qusr.pkl"
    export_lora(load_checkpoint(source), tmp_path / "lora.safetensors", "kohya")
    checkpoint = pack.qusr_train.checkpoints.load.load_checkpoint(source)
    model = golden.golden_unet()
    state = comfy.utils.load_torch_file(str(tmp_path / "lora.safetensors"), safe_load=True)
    theirs, _ = comfy.sd.load_lora_for_models(model, None, state, 1.0, 0.0)
    ours = pack.nodes.native.stable_diffusion.apply_checkpoint(model, checkpoint)
    assert theirs.patches.keys() == ours.patches.keys()
    assert len(theirs.patches) == len(checkpoint.lora)
    key = next(key for key in ours.patches if key.endswith("attn2.to_k.weight"))
    both = []
    for patched in (theirs, ours):
        patched.patch_model()
        both.append(patched.model.state_dict()[key].clone())
        patched.unpatch_model()
    torch.testing.assert_close(both[0], both[1], atol=1e-6, rtol=1e-5)
    assert (both[0] - model.model.state_dict()[key]).abs().max() > 1e-4
