"""Pairs of real cameras: the same scene through a long and a short lens, augmented, with their true blur measured.

The layout of City100 (Chen et al. 2019): CAMERA/hr holds the long lens, CAMERA/lr2 the aligned short one at half
the size, of the same names.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from ..errors import InputError
from ..images.find import match_folders
from ..images.read import read_rgb
from .choices import Choices
from .degraded import SCALE, Applied, Degraded
from .filters import filter_image, gaussian_kernel
from .samples import turned_pair
from .sensor import recorded, reduced

log = logging.getLogger(__name__)

BLURS = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.05, 1.2)
"""What `fit_blur` tries, in pixels of the small picture."""
TEXTURE = 0.012
"""Mean difference of neighbours below which a crop counts as flat."""


def fit_blur(lr: Tensor, hr: Tensor) -> float:
    """The gaussian blur that explains a small picture best, standard deviation in its own pixels.

    Args:
        lr: (1, 3, h, w) in [0, 1], without noise.
        hr: (1, 3, H, W), H and W the same multiple of h and w.
    """
    scale = hr.shape[-1] // lr.shape[-1]
    small, large = lr.mean(1, keepdim=True), hr.mean(1, keepdim=True)
    errors = []
    for blur in BLURS:
        sigma = blur * scale
        x = filter_image(large, gaussian_kernel(sigma, sigma, 0.0, 2 * math.ceil(3 * sigma) + 1)) if sigma else large
        difference = F.interpolate(x, size=lr.shape[-2:], mode="area") - small
        errors.append((difference - difference.mean()).square().mean().item())
    return BLURS[errors.index(min(errors))]


def load_camera_pairs(folder: Path, smallest: int) -> list[tuple[Tensor, Tensor]]:
    """Every pair of every camera, in memory: hr (3, H, W) and lr2 (3, H / 2, W / 2), uint8.

    Raises:
        InputError: no camera folder, or a pair whose sizes do not fit.
    """
    cameras = sorted(path.parent for path in folder.rglob("lr2") if (path.parent / "hr").is_dir())
    if not cameras:
        raise InputError("expected folders CAMERA/hr and CAMERA/lr2 in it, but found none", "camera_pairs", folder)
    found = []
    for camera in cameras:
        for small, large in match_folders(camera / "lr2", camera / "hr").values():
            hr, lr2 = ((read_rgb(path) * 255).round().byte() for path in (large, small))
            if (hr.shape[1], hr.shape[2]) != (2 * lr2.shape[1], 2 * lr2.shape[2]):
                raise InputError(
                    f"{small}: is {lr2.shape[2]} x {lr2.shape[1]}, its target {hr.shape[2]} x {hr.shape[1]}; expected "
                    "half of that"
                )
            if min(hr.shape[1:]) >= smallest:
                found.append((hr, lr2))
    if not found:
        raise InputError(f"no pair is at least {smallest} pixels on both sides", "camera_pairs", folder)
    return found


class CameraPairs(Dataset[Degraded]):
    """Random crops of real pairs at random scale, some with more blur, noise or JPEG; turned.

    Sample i is the same for the same seed, in any worker.
    """

    def __init__(self, pairs: list[tuple[Tensor, Tensor]], patch: int, length: int, seed: int) -> None:
        self.pairs, self.patch, self.length, self.seed = pairs, patch, length, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Degraded:
        if not 0 <= index < self.length:
            raise IndexError(index)
        choices = Choices(torch.Generator().manual_seed(self.seed * 1_000_003 + index))
        lr, hr = self._crop(*choices.one_of(self.pairs), choices)
        if hr.shape[-1] != self.patch:
            size = (self.patch, self.patch)
            hr = F.interpolate(hr, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        if choices.chance(0.5):
            sigma = choices.uniform(0.3, 1.6)
            lr = filter_image(lr, gaussian_kernel(sigma, sigma, 0.0, 13))
        lr = reduced(lr, self.patch // SCALE, self.patch // SCALE, choices)
        blur = fit_blur(lr, hr)
        lr, noise, quality = recorded(lr, choices, choices.chance(0.1), 0.0, 1.0, noisy=0.35)
        return Degraded(*turned_pair(lr, hr, choices.generator), Applied(blur, noise, quality))

    def _crop(self, hr: Tensor, lr2: Tensor, choices: Choices) -> tuple[Tensor, Tensor]:
        """The short and the long lens at one random place, (1, 3, n / 2, n / 2) and (1, 3, n, n) in [0, 1].

        A larger crop than the patch is reduced later: a sharper pair of smaller things.
        """
        scale = choices.uniform(0.55, 1.0) if choices.chance(0.6) else 1.0
        side = min(math.ceil(self.patch / scale / 8) * 8, min(lr2.shape[1:]) * 2)
        for _ in range(5):  # flat sky teaches little
            y, x = (choices.below(size - side // 2 + 1) for size in lr2.shape[1:])
            large = hr[None, :, 2 * y : 2 * y + side, 2 * x : 2 * x + side].float() / 255
            if large.diff(dim=-1).abs().mean() > TEXTURE:
                break
        return lr2[None, :, y : y + side // 2, x : x + side // 2].float() / 255, large
