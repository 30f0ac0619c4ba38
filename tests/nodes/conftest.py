"""The nodes inside a real ComfyUI: this process imports ComfyUI itself and loads the pack as ComfyUI does."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


def _import_comfyui() -> None:
    from tests.support.comfyui import comfyui_path, has_accelerator

    # First on the path: ComfyUI's `nodes` and `utils` must win over the pack's own folder names.
    sys.path.insert(0, str(comfyui_path()))
    import comfy.cli_args
    import utils.extra_config  # noqa: F401  # as main.py does, before a folder with another `utils` is on the path

    comfy.cli_args.args.cpu = not has_accelerator()


_import_comfyui()


@pytest.fixture(scope="session")
def pack() -> ModuleType:
    """The extension, imported under a foreign name with relative imports, as ComfyUI does it."""
    if "qusr_pack" in sys.modules:  # tests/attacks take this fixture too
        return sys.modules["qusr_pack"]
    spec = importlib.util.spec_from_file_location(
        "qusr_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["qusr_pack"] = module
    spec.loader.exec_module(module)
    return module


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
