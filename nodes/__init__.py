"""The nodes, and the list ComfyUI asks for."""

from __future__ import annotations

import logging

from comfy_api.latest import ComfyExtension, io

from .captions import QUSRQwenPrompt, QUSRServerPrompt
from .color import QUSRColorFix
from .compare import QUSRCompare
from .denoise import QUSROneStepDenoise
from .download import QUSRDownload
from .enlarge import QUSREnlarge
from .example import QUSRExamplePhoto
from .load import QUSRLoader, QUSRNanoLoader
from .native.internals import missing
from .native.widgets import check_links
from .noise import QUSRAdaptiveNoise
from .photo_guide import QUSRPhotoGuide
from .prompt import QUSREncodePrompt, QUSRQualityPrompt
from .tiles import QUSRPhotoTiles
from .train import QUSRLossPlot, QUSRTrain
from .uncertainty import QUSRUncertainty, QUSRUncertaintyView
from .upscale import QUSRUpscale
from .vae import QUSRDecode, QUSREncode

_ALL: list[type[io.ComfyNode]] = [
    QUSRUpscale,
    QUSRExamplePhoto,
    QUSRNanoLoader,
    QUSRLoader,
    QUSRDownload,
    QUSREnlarge,
    QUSREncode,
    QUSRPhotoTiles,
    QUSRQualityPrompt,
    QUSRQwenPrompt,
    QUSRServerPrompt,
    QUSREncodePrompt,
    QUSRPhotoGuide,
    QUSRUncertainty,
    QUSRUncertaintyView,
    QUSRAdaptiveNoise,
    QUSROneStepDenoise,
    QUSRDecode,
    QUSRColorFix,
    QUSRCompare,
    QUSRTrain,
    QUSRLossPlot,
]
NODES = [check_links(cls) for cls in _ALL]


log = logging.getLogger(__name__)


class QUSRExtension(ComfyExtension):
    async def on_load(self) -> None:
        if gone := missing():
            log.warning(
                "QUSR: this ComfyUI lacks %s, which some QUSR nodes need; update QUSR, or report it to its makers",
                ", ".join(gone),
            )

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> QUSRExtension:
    return QUSRExtension()
