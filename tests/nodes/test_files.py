"""Missing and damaged weight files, seen from a node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def nano_module(pack: Any) -> Any:
    module = pack.nodes.native.nano
    module._base.cache_clear()
    yield module
    module._base.cache_clear()


def test_missing_weights_are_named_with_a_remedy(nano_module: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"weight file .*gone\.safetensors: not found"):
        nano_module.load_nano_models(path=str(tmp_path / "gone.safetensors"))


def test_truncated_weights_are_named(nano_module: Any, pack: Any, tmp_path: Path) -> None:
    whole = Path(pack.qusr_train.checkpoints.nano_file.BUNDLED).read_bytes()
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"broken\.safetensors: damaged"):
        nano_module.load_nano_models(path=str(broken))


def test_foreign_weights_are_named(nano_module: Any, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(1)}, str(foreign))
    with pytest.raises(ValueError, match="not a qusr-nano model"):
        nano_module.load_nano_models(path=str(foreign))
