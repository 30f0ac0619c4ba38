"""Any factor, a longest side or megapixels; prompt, tiles and map follow."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support import golden

SIZES = [
    ({}, (96, 80)),
    ({"factor": 1.0}, (24, 20)),
    ({"factor": 2.0}, (48, 40)),
    ({"factor": 3.0}, (72, 60)),
    ({"factor": 2.75}, (66, 55)),
    ({"size": "longest side", "longest_side": 100}, (100, 83)),
    ({"size": "megapixels", "megapixels": 0.01}, (110, 91)),
]


@pytest.mark.parametrize(("options", "size"), SIZES)
def test_nano(upscale: Any, node: Any, photo: Tensor, options: dict[str, Any], size: tuple[int, int]) -> None:
    small = photo[:, :24, :20]
    restored, uncertainty, bicubic, prompt = upscale(small, **options)
    assert restored.shape == bicubic.shape == (1, *size, 3)
    assert uncertainty.map.shape == (1, 3, *size)
    assert prompt == upscale(small)[3]  # of the photo itself, whatever it becomes
    assert (restored - bicubic).abs().max() > 1e-3
    names = {"factor": "scale"}
    enlarged = node.QUSREnlarge.execute(
        small, **{"scale": 4.0, **{names.get(name, name): value for name, value in options.items()}}
    ).args[0]
    assert torch.equal(enlarged, bicubic)


def test_four_is_what_it_always_was(upscale: Any, photo: Tensor) -> None:
    assert torch.equal(upscale(photo)[0], upscale(photo, size="factor", factor=4.0, longest_side=64)[0])


def test_tiles_and_alpha_follow(upscale: Any, node: Any, photo: Tensor) -> None:
    alpha = torch.cat([photo, torch.ones(*photo.shape[:3], 1)], dim=-1)
    _, tiles = node.QUSRPhotoTiles.execute(alpha, 32, 8).args
    restored = upscale(alpha, factor=2.0, tiles=tiles)[0]
    assert restored.shape == (1, 96, 80, 4)
    assert restored[..., 3].min() > 0.999


@pytest.mark.parametrize(("factor", "size"), [(1.0, (75, 90)), (1.5, (112, 135))])
def test_stable_diffusion(node: Any, upscale: Any, factor: float, size: tuple[int, int]) -> None:
    """The golden model; sides that are no multiples of 8."""
    import folder_paths

    folder_paths.folder_names_and_paths["qusr"][0].append(str(golden.GOLDEN / "checkpoints"))
    try:
        loaded = node.QUSRLoader.execute(golden.golden_unet(), "qusr.pkl", 1.0, 1.0, 1.0, golden.golden_vae()).args
    finally:
        folder_paths.folder_names_and_paths["qusr"][0].pop()
    sockets = {"model": loaded[0], "uem": loaded[1], "vae": loaded[2], "clip": golden.golden_clip(), "prompt": "a"}
    small = torch.rand(1, 75, 90, 3, generator=torch.Generator().manual_seed(1))
    restored, uncertainty, _, _ = upscale(small, factor=factor, **sockets)
    assert restored.shape == (1, *size, 3)
    assert uncertainty.map.shape == (1, 3, *size)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "furlongs"}, "size: expected one of factor, longest side, megapixels"),
        ({"factor": 0.0}, "factor: expected a number above 0, but got 0"),
        ({"size": "megapixels", "megapixels": float("nan")}, "megapixels: expected a number above 0"),
    ],
)
def test_refused_by_name(upscale: Any, photo: Tensor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        upscale(photo[:, :8, :8], **options)
