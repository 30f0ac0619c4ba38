"""A tiny nano model with random weights, and small pictures, for tests that need files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from qusr_train.checkpoints.nano_file import NanoCheckpoint, save_nano
from qusr_train.model import precision
from qusr_train.model.nano import NanoConfig
from tests.support import tiny_nano

WriteImage = Callable[..., Path]
GOLDEN = Path(__file__).resolve().parents[1] / "golden"


@pytest.fixture(autouse=True, scope="session")
def _one_cpu_thread() -> None:
    """Tiny models are fastest on one thread; training stays on the CPU, where equal means equal."""
    torch.set_num_threads(1)
    os.environ["ACCELERATE_USE_CPU"] = "true"


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def float32_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """nano's UNet in float32 on every CPU, where a test compares two ways to the same result."""
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda: False)


@pytest.fixture(scope="session")
def tiny_config() -> NanoConfig:
    return tiny_nano.CONFIG


@pytest.fixture
def tiny_checkpoint() -> NanoCheckpoint:
    """Random weights with a residual of moderate size, and a LoRA on every target layer."""
    return tiny_nano.build()


@pytest.fixture
def tiny_file(tiny_checkpoint: NanoCheckpoint, tmp_path: Path) -> Path:
    """The tiny model as a file, outside of the folders that tests fill."""
    path = tmp_path / "model" / "tiny.safetensors"
    save_nano(path, tiny_checkpoint)
    return path


@pytest.fixture(scope="session")
def texture() -> Tensor:
    """(1, 3, 96, 96) in [0, 1]: waves of several directions and lengths, no 8-pixel grid, no clipping."""
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    waves = 0.14 * torch.sin(x / 1.1) * torch.cos(y / 1.3) + 0.12 * torch.sin((x + 2 * y) / 3.7)
    waves = 0.5 + waves + 0.1 * torch.cos((x * 0.6 - y) / 11.0)
    return torch.stack([waves, 0.9 * waves + 0.05, 0.8 * waves + 0.1])[None]


@pytest.fixture(scope="session")
def tiny_sd21(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SD 2.1's structure with 32 to 64 channels: the golden UNet and VAE, a text encoder with random weights."""
    from transformers import CLIPTextConfig, CLIPTextModel

    path = tmp_path_factory.mktemp("sd") / "model"
    path.mkdir()
    for part in ("unet", "vae"):
        (path / part).symlink_to(GOLDEN / "model" / part, target_is_directory=True)
    torch.manual_seed(0)
    settings = json.loads((GOLDEN / "model" / "text_encoder" / "config.json").read_text())
    CLIPTextModel(CLIPTextConfig(**settings)).save_pretrained(path / "text_encoder")
    return path


@pytest.fixture(scope="session")
def tiny_pairs(tmp_path_factory: pytest.TempPathFactory, texture: Tensor) -> Path:
    """Six pairs of 64 x 64, made by `degrade`."""
    from qusr_train.data.pregenerate import Pregeneration, pregenerate

    photos = tmp_path_factory.mktemp("photos")
    Image.fromarray((texture[0] * 255).byte().permute(1, 2, 0).numpy()).save(photos / "photo.png")
    out = tmp_path_factory.mktemp("pairs")
    pregenerate(Pregeneration(photos, patch=64), out, 6)
    return out


@pytest.fixture(scope="session")
def write_image() -> WriteImage:
    """write_image(path, (width, height), mode): a picture of random values, its folders made."""

    def write(path: Path, size: tuple[int, int] = (12, 10), mode: str = "RGB", seed: int = 0) -> Path:
        bands = len(Image.new(mode, (1, 1)).getbands())
        values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], bands), dtype=np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values[..., 0] if bands == 1 else values).save(path)
        return path

    return write
