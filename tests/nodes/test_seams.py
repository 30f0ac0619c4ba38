"""No seams: what tiles change is not seen as a line where they meet, on a smooth gradient and on text."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support import golden
from tests.support.ridges import ridges
from tests.support.seam_pictures import PICTURES

HARD, NONE = 2.5, 1.4  # a ridge that is seen, and what the median's own scatter comes to


class _Silent:
    seed = 0

    def generate_noise(self, latent: dict[str, Any]) -> Tensor:
        return torch.zeros_like(latent["samples"])


@pytest.fixture(scope="module")
def sd(node: Any, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    import folder_paths

    model, vae = golden.golden_unet(), golden.golden_vae()
    known = folder_paths.folder_names_and_paths["qusr"]
    folder_paths.folder_names_and_paths["qusr"] = ([str(golden.GOLDEN / "checkpoints")], known[1])
    loaded = node.QUSRLoader.execute(model, "qusr.pkl", 1.0, 1.0, 1.0, vae).args
    folder_paths.folder_names_and_paths["qusr"] = known
    conditioning = node.QUSREncodePrompt.execute([golden.golden_clip()], [""]).args[0]
    return SimpleNamespace(model=loaded[0], vae=vae, conditioning=conditioning)


@pytest.mark.parametrize("name", PICTURES)
def test_stable_diffusion_has_no_ridge_where_tiles_meet(node: Any, pack: Any, sd: SimpleNamespace, name: str) -> None:
    """The golden model's norms and attention see the whole latent, so tiles do differ from it, but nowhere suddenly."""
    latent = {"samples": sd.vae.encode(PICTURES[name]().movedim(1, -1))}
    starts = pack.qusr_train.images.tiling.starts

    def run(tile: int, overlap: int, blend: str = "smooth") -> Tensor:
        arguments = (sd.model, sd.conditioning, latent, _Silent(), 1.0, tile, overlap, blend)
        return node.QUSROneStepDenoise.execute(*arguments).args[0]["samples"]

    whole = run(0, 0)
    hard = ridges(run(32, 0) - whole, starts(64, 32, 0), 32)
    assert max(hard.values()) > HARD, "the detector does not see a hard cut"
    for tile, overlap in ((32, 16), (48, 16)):
        found = ridges(run(tile, overlap) - whole, starts(64, tile, overlap), tile)
        print(name, tile, overlap, {place: round(value, 2) for place, value in found.items()})
        assert max(found.values()) < NONE, (tile, overlap, found)


@pytest.mark.parametrize("name", PICTURES)
def test_nano_in_tiles_is_nano_whole(node: Any, nano: Any, separate: Any, name: str) -> None:
    """nano reaches a bounded number of pixels: with that margin its tiles give the whole picture, to rounding."""
    small = torch.nn.functional.avg_pool2d(PICTURES[name](), 4).movedim(1, -1)  # 128 x 128
    parts = separate(small)

    def run(tile: int) -> Tensor:
        arguments = (nano.model, parts.conditioning, parts.latent, parts.noise, 1.0, tile, 0)
        return node.QUSROneStepDenoise.execute(*arguments).args[0]["samples"]

    whole = run(0)
    for tile in (32, 72):
        assert (run(tile) - whole).abs().max() < 1e-4


def test_the_smooth_weights_add_up_evenly() -> None:
    """Half a tile of overlap: the ramps of neighbours complement each other."""
    from qusr_train.images.tiling import smooth_weights

    profile = 2 * smooth_weights(1, 8, 4)[0]  # the one row has the weight 1 / 2
    torch.testing.assert_close(profile[4:] + profile[:4], torch.ones(4, dtype=torch.float64))
