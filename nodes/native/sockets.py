"""Socket types of QUSR and the typed objects that travel on them; everything else is native."""

from __future__ import annotations

from dataclasses import dataclass, field

from comfy_api.latest import io
from torch import Tensor

from ...qusr_train.model.map_calibration import MapCalibration
from ...qusr_train.model.noise import NoiseParameters
from .comfy_types import CLIP, MODEL, VAE, Patcher

CATEGORY = "image/upscaling/QUSR"

UEMSocket = io.Custom("QUSR_UEM")
UncertaintySocket = io.Custom("QUSR_UNCERTAINTY")
TilesSocket = io.Custom("QUSR_TILES")


@dataclass(frozen=True)
class LoadedUEM:
    """What a loader hands out beside the MODEL."""

    patcher: Patcher | None
    """Around a `qusr_train.uncertainty.UEM`; None when the model has none (only QUSR's do)."""
    noise: NoiseParameters
    """How the model was trained to turn the map into noise."""
    latent_scale: float
    """Factor between the VAE's output and the denoiser's latent space."""
    meaning: MapCalibration | None = None
    """What the map's values mean in grey levels; None: they have no unit."""


@dataclass(frozen=True)
class LoadedModels:
    """What a loader's four sockets carry, nano's or SD 2.1's."""

    model: MODEL
    clip: CLIP
    vae: VAE
    uem: LoadedUEM


@dataclass(frozen=True)
class Uncertainty:
    """An uncertainty map on its way to the view and to the noise."""

    map: Tensor
    """Raw U, (B, 3, H, W), float32 on the CPU."""
    noise: NoiseParameters = field(default_factory=lambda: NoiseParameters(variant="paper", k=0.01))
    """Parameters of the model the map belongs to; qusr-nano's without one."""
    latent_scale: float = 1.0
    estimator: str = "model"
    """What the map was made with: `model`, `gradient` or `sobel`."""

    meaning: MapCalibration | None = None
    """What the values mean in grey levels, and which pixels to trust; None: they have no unit."""

    @property
    def values(self) -> Tensor:
        """(B, H, W), what is shown: expected absolute error in grey levels, or `magnitude` for a map without a unit."""
        return self.magnitude if self.meaning is None else self.meaning.grey_levels(self.map)

    @property
    def unit(self) -> str:
        """`grey levels`, or empty for a map without a unit."""
        return "" if self.meaning is None else self.meaning.unit

    @property
    def magnitude(self) -> Tensor:
        """(B, H, W): mean over the channels of |U|, which is what the noise scale depends on (eq. 6)."""
        return self.map.abs().mean(1)
