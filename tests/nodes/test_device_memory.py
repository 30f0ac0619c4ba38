"""Device memory grows with the tile, not with the image: counted at SD 2.1's full shapes, without data."""

from __future__ import annotations

from typing import Any

import pytest

from tests.bench.device_memory import peak, steps
from tests.support.device_meter import without_data

TILE = 256
BYTES = {"uncertainty": 4 * 3 * 2, "encode": 0, "denoise": 1, "decode": 0}  # for each pixel: input and output there


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> None:
    import comfy.model_management

    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda *_, **__: 2**40)


@pytest.mark.usefixtures("endless")
def test_tiles_bound_the_memory_of_encoding_and_decoding(pack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # As for images beyond 2048 x 2048: else the keys and values of the attention still grow.
    monkeypatch.setattr(pack.qusr_train.model.exact_vae, "RESIDENT_POSITIONS", 0)
    monkeypatch.setattr(pack.qusr_train.model.exact_vae, "STREAMED_AT_ONCE", 1024)
    with without_data():
        small, large = steps(pack, 512, TILE), steps(pack, 768, TILE)
        for name in ("encode", "decode"):
            tiles = [peak(runs[name][1]) for runs in (small, large)]
            whole = [peak(runs[name][0]) for runs in (small, large)]
            assert tiles[1] < 1.05 * tiles[0], name
            assert whole[1] > 2 * whole[0], "the meter does not see the image's size"
            assert tiles[1] < whole[1] / 2


@pytest.mark.usefixtures("endless")
def test_tiles_bound_the_memory_of_the_map_and_the_denoiser(pack: Any) -> None:
    with without_data():
        small, large = steps(pack, 1536, TILE), steps(pack, 2304, TILE)
        for name in ("uncertainty", "denoise"):
            tiles = [peak(runs[name][1]) for runs in (small, large)]
            ends = BYTES[name] * (2304**2 - 1536**2)
            assert tiles[1] - tiles[0] < 1.1 * ends + 0.05 * tiles[0], name
            assert peak(large[name][0]) > 2 * tiles[1]
