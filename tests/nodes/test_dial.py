"""From fidelity to detail: one dial, the same meaning for every model."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support import golden


def test_full_detail_is_the_model_as_trained(upscale: Any, photo: Tensor) -> None:
    """Bit for bit, and so old workflows with the preset balanced keep their result."""
    assert torch.equal(upscale(photo, preset="dial", detail=1.0)[0], upscale(photo, preset="balanced")[0])


def test_fidelity_of_nano_is_its_base_without_noise(
    node: Any, upscale: Any, photo: Tensor, pack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack.qusr_train.model.precision, "multiplies_bfloat16", lambda: False)  # two sums, one result
    model, clip, vae, uem = node.QUSRNanoLoader.execute(lora_strength=0.0).args
    sockets = {"model": model, "clip": clip, "vae": vae, "uem": uem}
    base = upscale(photo, preset="custom", strength=1.0, noise_strength=0.0, **sockets)[0]
    assert (upscale(photo, preset="dial", detail=0.0)[0] - base).abs().max() < 1e-5


def test_the_dial_scales_nanos_lora(node: Any, pack: Any) -> None:
    """Half of the dial is half of the LoRA, also on top of the loader's strength and of other patches."""
    turn = pack.nodes.native.dial.turn
    key = "diffusion_model.conv_out.weight"

    def weight(model: Any) -> Tensor:
        return model.model_state_dict()[key] if not model.patches.get(key) else _patched(model, key)

    full, none = (node.QUSRNanoLoader.execute(lora_strength=s).args[0] for s in (0.8, 0.0))
    plain = none.model_state_dict()[key].float()
    half = turn(full, 0.5)
    assert half.noise == 0.5
    assert half.residual == 1.0
    torch.testing.assert_close(weight(half.model) - plain, (weight(full) - plain) / 2, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(weight(turn(full, 0.0).model), plain, atol=1e-6, rtol=0)


def _patched(model: Any, key: str) -> Tensor:
    import comfy.lora

    return comfy.lora.calculate_weight(model.patches[key], model.model_state_dict()[key].clone(), key)


@pytest.fixture
def load(node: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    import folder_paths

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "qusr", ([str(tmp_path)], {".pkl"}))
    model, vae, clip = golden.golden_unet(), golden.golden_vae(), golden.golden_clip()

    def run(name: str, pixel: float = 1.0, semantic: float = 1.0) -> dict[str, Any]:
        shutil.copy(golden.GOLDEN / "checkpoints" / f"{name}.pkl", tmp_path)
        folder_paths.filename_list_cache.pop("qusr", None)
        loaded = node.QUSRLoader.execute(model, f"{name}.pkl", 1.0, pixel, semantic, vae).args
        return {"model": loaded[0], "uem": loaded[1], "vae": loaded[2], "clip": clip, "prompt": ""}

    return run


def _difference(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


@pytest.mark.parametrize("detail", [0.0, 0.6])
def test_pisa_sr_turns_its_semantic_strength(upscale: Any, load: Any, photo: Tensor, detail: float) -> None:
    small = photo[:, :16, :16]
    dialled = upscale(small, preset="dial", detail=detail, **load("pisa_sr"))[0]
    loaded = upscale(small, preset="dial", detail=1.0, **load("pisa_sr", pixel=1.0, semantic=detail))[0]
    assert _difference(dialled, loaded) < 1e-4
    assert _difference(dialled, upscale(small, preset="dial", detail=1.0, **load("pisa_sr"))[0]) > 1e-3


def test_the_dial_multiplies_pisa_srs_own_strengths(upscale: Any, load: Any, photo: Tensor) -> None:
    small = photo[:, :16, :16]
    dialled = upscale(small, preset="dial", detail=0.5, **load("pisa_sr", pixel=0.8, semantic=1.2))[0]
    loaded = upscale(small, preset="dial", detail=1.0, **load("pisa_sr", pixel=0.8, semantic=0.6))[0]
    assert _difference(dialled, loaded) < 1e-4


@pytest.mark.parametrize("name", ["qusr", "osediff", "codsr"])
def test_models_without_a_faithful_base_fade_their_residual(
    node: Any, upscale: Any, load: Any, photo: Tensor, name: str
) -> None:
    """0 is the enlarged photo through the VAE, and the picture moves evenly to the trained one."""
    small, sockets = photo[:, :16, :16], load(name)
    none = upscale(small, preset="dial", detail=0.0, color_fix="none", **sockets)
    latent = node.QUSREncode.execute(none[2], sockets["vae"], 0, "exact").args[0]
    photo_again = node.QUSRDecode.execute(latent, sockets["vae"], 0, "exact").args[0]
    assert _difference(none[0], photo_again) < 1e-3  # the latent is scaled and back in between
    half, strength = (
        upscale(small, color_fix="none", **choice, **sockets)[0]
        for choice in ({"preset": "dial", "detail": 0.5}, {"preset": "custom", "strength": 0.5})
    )
    assert torch.equal(half, strength)
    full, trained = (
        upscale(small, color_fix="none", **choice, **sockets)[0]
        for choice in ({"preset": "dial", "detail": 1.0}, {"preset": "balanced"})
    )
    assert torch.equal(full, trained)
    assert 0 < _difference(none[0], half) < _difference(none[0], full)


@pytest.mark.parametrize("detail", [-0.1, 1.1, float("nan")])
def test_outside_the_dial_is_refused(upscale: Any, photo: Tensor, detail: float) -> None:
    with pytest.raises(ValueError, match=r"detail: expected 0 \(fidelity\) to 1 \(detail\)"):
        upscale(photo[:, :8, :8], preset="dial", detail=detail)


def test_numbers_that_meant_a_word_still_do_so_in_old_workflows(
    node: Any, nano: Any, separate: Any, photo: Tensor
) -> None:
    """Version 0.1 wrote -1 into k, m, p and delta for "as trained"; the widgets of today begin at 0."""
    parts = separate(photo[:, :12, :12])
    cls = node.QUSRAdaptiveNoise

    def sigma(**options: Any) -> SimpleNamespace:
        noise = cls.execute(nano.vae, parts.uncertainty, 1, 1.0, "auto", **options).args[0]
        return SimpleNamespace(p=noise.p, sigma=noise.sigma)

    trained = sigma()
    old = sigma(k=-1.0, m=-1.0, p=-1.0, delta=-1.0)
    assert torch.equal(old.sigma, trained.sigma)
    assert sigma(k=-1.0, m=-1.0, p=0.25, delta=-1.0).p == 0.25
    new = sigma(k=7.0, m=0.5, p=3.0, delta=0.5, parameters="as trained")
    assert (new.p, torch.equal(new.sigma, trained.sigma)) == (trained.p, True)
    assert sigma(k=7.0, m=0.5, p=3.0, delta=0.5, parameters="custom").p == 3.0
    assert cls.validate_inputs(k=-1.0) is True
    assert cls.validate_inputs(p=-0.5) == "p: expected 0 to 4, but got -0.5"
    assert cls.validate_inputs(m=1.5) == "m: expected 0 to 1, but got 1.5"
    for entry in cls.define_schema().inputs:
        assert (getattr(entry, "min", 0) or 0) >= 0, f"{entry.id} begins below 0"
