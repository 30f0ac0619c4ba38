"""Dynamic VRAM: the memory management of newer ComfyUI, which swaps the patcher's class and loads layers lazily."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.support import golden


@pytest.fixture
def swapped(monkeypatch: pytest.MonkeyPatch) -> type:
    """The class that ComfyUI's start puts in the classic one's place."""
    import comfy.model_patcher

    class Dynamic(comfy.model_patcher.ModelPatcher):  # type: ignore[misc]
        pass

    monkeypatch.setattr(comfy.model_patcher, "CoreModelPatcher", Dynamic, raising=False)
    return Dynamic


@pytest.fixture
def fresh(pack: Any) -> Iterator[Any]:
    """nano's module without models from other tests in its cache, and none left for them."""
    nano = pack.nodes.native.nano
    nano._base.cache_clear()
    yield nano
    nano._base.cache_clear()


def test_uncertainty_module_is_managed_as_comfyui_manages_its_own(swapped: type, fresh: Any, pack: Any) -> None:
    models = fresh.load_nano_models()
    assert type(models.uem.patcher) is swapped
    assert type(models.model) is not swapped, "hooks and torch.compile need the classic kind"
    checkpoint = pack.qusr_train.checkpoints.load.load_checkpoint(golden.GOLDEN / "checkpoints" / "qusr.pkl")
    uem = pack.nodes.native.stable_diffusion.loaded_uem(golden.golden_unet(), checkpoint)
    assert type(uem.patcher) is swapped


def test_nano_from_lazily_loaded_layers_gives_the_same(
    fresh: Any, upscale: Any, photo: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = pytest.importorskip("comfy.memory_management", reason="this ComfyUI has no Dynamic VRAM")
    before = upscale(photo)[0]
    fresh._base.cache_clear()
    monkeypatch.setattr(memory, "aimdo_enabled", True)
    assert torch.equal(upscale(photo)[0], before)
