"""The nodes inside a real ComfyUI: this process imports ComfyUI itself and loads the pack as ComfyUI does."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from tests.support.comfyui import has_accelerator
from tests.support.pack import import_comfyui, import_pack

import_comfyui(cpu=not has_accelerator())


@pytest.fixture(scope="session")
def pack() -> ModuleType:
    """The extension, imported under a foreign name with relative imports, as ComfyUI does it."""
    return import_pack()


@pytest.fixture(scope="session")
def node(pack: ModuleType) -> Any:
    """Node classes by id: node.QUSRUpscale.execute(...)."""
    return SimpleNamespace(**{cls.__name__: cls for cls in pack.nodes.NODES})


@pytest.fixture(scope="session")
def core() -> Any:
    """ComfyUI's own nodes that QUSR is wired with."""
    import comfy_extras.nodes_custom_sampler as sampling

    import nodes as comfy_nodes

    return SimpleNamespace(sampling=sampling, nodes=comfy_nodes)


@pytest.fixture(scope="session")
def nano(node: Any) -> Any:
    """Outputs of QUSRNanoLoader: model, clip, vae, uem."""
    model, clip, vae, uem = node.QUSRNanoLoader.execute(lora_strength=1.0).args
    return SimpleNamespace(model=model, clip=clip, vae=vae, uem=uem)


@pytest.fixture(scope="session")
def photo(node: Any) -> torch.Tensor:
    """A crop of the bundled photo, (1, 48, 40, 3)."""
    return node.QUSRExamplePhoto.execute().args[0][:, 60:108, 50:90].contiguous()


@pytest.fixture(scope="session")
def separate(node: Any, nano: Any) -> Any:
    """The chain of separate nodes up to the guided latent's ingredients."""

    def chain(image: torch.Tensor, seed: int = 7, prompt: str | None = None) -> Any:
        bicubic = node.QUSREnlarge.execute(image, 4.0).args[0]
        prompts = [prompt] if prompt is not None else node.QUSRQualityPrompt.execute(image).args[0]
        conditioning = node.QUSREncodePrompt.execute([nano.clip], prompts).args[0]
        uncertainty, mask = node.QUSRUncertainty.execute(bicubic, nano.uem).args
        latent = {"samples": nano.vae.encode(bicubic)}
        noise, level = node.QUSRAdaptiveNoise.execute(nano.vae, uncertainty, seed, 1.0, "auto").args
        return SimpleNamespace(
            bicubic=bicubic, prompts=prompts, conditioning=conditioning, uncertainty=uncertainty, mask=mask,
            latent=latent, noise=noise, level=level,
        )  # fmt: skip

    return chain


@pytest.fixture(scope="session")
def upscale(node: Any) -> Any:
    """QUSRUpscale as ComfyUI calls it: every input a list, every output a list."""

    def run(image: torch.Tensor, **options: Any) -> tuple[Any, ...]:
        settings = {
            "preset": "balanced", "seed": 1, "prompt": "", "strength": 1.0, "noise_strength": 1.0,
            "color_fix": "wavelet", **options,
        }  # fmt: skip
        listed = {name: value if isinstance(value, list) else [value] for name, value in settings.items()}
        outputs = node.QUSRUpscale.execute([image], **listed).args
        return tuple(output[0] for output in outputs)

    return run
