"""The seeds of a batch: image i is restored as if alone, and a long video needs no memory of its own."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor


@pytest.fixture(scope="module")
def stills(photo: Tensor) -> Tensor:
    """Three different photos, (3, 24, 20, 3)."""
    return torch.cat([photo[:, :24, :20], photo[:, 24:48, :20], photo[:, 12:36, 20:40]])


def test_each_image_is_restored_as_if_alone(upscale: Any, stills: Tensor) -> None:
    """Written down: rule `per image` gives image i the seed + i, `fixed` the seed itself."""
    for seeds, step in (("per image", 1), ("fixed", 0)):
        together = upscale(stills, seed=40, seeds=seeds)[0]
        for index in range(3):
            alone = upscale(stills[index : index + 1], seed=40 + step * index)[0]
            assert torch.equal(together[index : index + 1], alone), (seeds, index)


def test_the_rule_matters_and_the_last_seed_wraps(upscale: Any, photo: Tensor) -> None:
    twice = photo[:, :16, :16].repeat(2, 1, 1, 1)
    same = upscale(twice, seeds="fixed")[0]
    assert torch.equal(same[0], same[1])  # frames of a still video do not flicker
    different = upscale(twice, seeds="per image")[0]
    assert not torch.equal(different[0], different[1])
    wrapped = upscale(twice, seed=2**64 - 1, seeds="per image")[0]
    assert torch.equal(wrapped[1:], upscale(twice[:1], seed=0)[0])


def test_images_of_a_list_count_on(node: Any, upscale: Any, stills: Tensor) -> None:
    as_batch = upscale(stills, seed=3, seeds="per image")[0]
    listed = node.QUSRUpscale.execute(
        [stills[:1], stills[1:]], ["balanced"], [3], [""], [1.0], [1.0], ["wavelet"], seeds=["per image"]
    ).args[0]
    assert torch.equal(torch.cat(listed), as_batch)


def test_noise_of_a_part_of_a_batch_is_that_of_the_whole(node: Any, nano: Any, separate: Any, stills: Tensor) -> None:
    parts = separate(stills)
    noise = node.QUSRAdaptiveNoise.execute(nano.vae, parts.uncertainty, 9, 1.0, "auto", seeds="per image").args[0]
    whole = noise.generate_noise(parts.latent)
    for index in range(3):
        assert torch.equal(noise.of_image(parts.latent, index), whole[index : index + 1])
    single = node.QUSRUncertainty.execute(parts.bicubic[2:], nano.uem).args[0]
    alone = node.QUSRAdaptiveNoise.execute(nano.vae, single, 9, 1.0, "auto", seeds="per image").args[0]
    # ComfyUI's Latent From Batch says which image it took
    taken = alone.generate_noise({"samples": parts.latent["samples"][2:], "batch_index": [2]})
    assert torch.equal(taken, whole[2:])


def _resident() -> int:
    """Memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
def test_two_hundred_frames_take_no_more_memory_than_their_pictures(
    pack: Any, upscale: Any, photo: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 x 64 to 256 x 256: beyond the node's own results the process grows by less than 100 MB, frame after frame."""
    frames = photo[:, :40, :40].repeat(1, 2, 2, 1)[:, :64, :64].expand(200, -1, -1, -1)
    upscale(frames[:2])  # everything that is made once
    module = pack.nodes.upscale
    decode, seen = module.decode_latent, []

    def watched(*arguments: Any, **keywords: Any) -> Any:
        seen.append(_resident())
        return decode(*arguments, **keywords)

    monkeypatch.setattr(module, "decode_latent", watched)
    gc.collect()
    before = _resident()
    restored, uncertainty, bicubic, _ = upscale(frames, prompt="a photo")
    results = sum(tensor.nbytes for tensor in (restored, uncertainty.map, bicubic))
    assert len(seen) == 200
    grown = max(*seen, _resident()) - before - results
    print(f"grown by {grown / 1e6:.0f} MB beyond {results / 1e6:.0f} MB of results")
    assert grown < 100e6
