"""Odd values on the nodes' sockets (issue 16, items 7, 14 and 16)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.mark.parametrize(
    "image",
    [
        torch.full((1, 8, 8, 3), 200, dtype=torch.uint8),
        torch.full((1, 8, 8, 3), 40_000, dtype=torch.int32),
        torch.ones(1, 8, 8, 3, dtype=torch.bool),
        torch.full((1, 8, 8, 3), 200.0),
        torch.full((1, 8, 8, 3), 65_535.0),
    ],
    ids=lambda image: f"{image.dtype}-{image.max()}",
)
@pytest.mark.parametrize("name", ["QUSREnlarge", "QUSRQualityPrompt", "QUSRUncertainty"])
def test_pixels_of_another_scale_are_refused_not_white(node: Any, name: str, image: torch.Tensor) -> None:
    more = {"QUSREnlarge": (2.0,)}.get(name, ())
    with pytest.raises(ValueError, match=r"image: expected .*255"):
        getattr(node, name).execute(image, *more)


@pytest.mark.parametrize("tile", [1, 8, 63])
def test_tiles_that_are_too_small_are_named(node: Any, nano: Any, photo: torch.Tensor, tile: int) -> None:
    with pytest.raises(ValueError, match=r"tile: expected 0 .* or at least 64"):
        node.QUSREncode.execute(photo, nano.vae, tile, "exact")
    with pytest.raises(ValueError, match=r"tile: expected 0 .* or at least 64"):
        node.QUSRDecode.execute({"samples": torch.zeros(1, 48, 4, 4)}, nano.vae, tile, "exact")


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (1, 48, 8), (1, 48, 2, 8, 8), (48,)])
def test_a_latent_of_another_model_is_named(node: Any, nano: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"latent: expected \(batch, 48, height, width\) for this VAE"):
        node.QUSRDecode.execute({"samples": torch.zeros(shape)}, nano.vae, 0, "exact")


def test_a_conditioning_with_nothing_in_it_is_named(node: Any, nano: Any) -> None:
    latent = {"samples": torch.zeros(1, 48, 4, 4)}
    with pytest.raises(ValueError, match="conditioning: is empty"):
        node.QUSROneStepDenoise.execute(nano.model, [], latent, None, 1.0, 0, 0)


def test_metrics_of_any_content_give_a_plot_or_a_named_error(node: Any, folders: Path) -> None:
    run = folders / "output" / "run"
    run.mkdir()
    lines = [
        '{"step": 1, "loss\\u4e2d": 1.0}', "[1]", "{", "[" * 50_000, '{"step": "x", "a": 1}', '{"step": 2, "b": "c"}',
        '{"step": 3, "loss\\u4e2d": 1e400, "nan": NaN}', "7", "",
    ]  # fmt: skip
    (run / "x.metrics.jsonl").write_bytes("\n".join(lines).encode() + b"\xff\xfe")
    assert node.QUSRLossPlot.execute("run").args[0].shape[-1] == 3
    (run / "x.metrics.jsonl").write_text("\n".join(lines[1:5]), encoding="utf-8")
    with pytest.raises(ValueError, match="nothing to plot"):
        node.QUSRLossPlot.execute("run")


def test_the_viewers_temp_files_do_not_grow(node: Any, folders: Path) -> None:
    """The same picture is stored once, and only the newest runs of a node are kept."""
    where = folders / "temp" / "qusr"
    sizes = []
    for run in range(30):
        image = torch.full((1, 8, 8, 3), (run % 15) / 20)
        for _ in range(2):
            node.QUSRCompare.execute(image, 1.0 - image)
        sizes.append(len(list(where.glob("*.png"))))
    assert sizes[0] == 2
    assert max(sizes) <= 16
    assert sizes[-1] >= 2
