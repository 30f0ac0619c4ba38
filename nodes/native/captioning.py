"""Captions for a batch: remembered in ComfyUI's user folder, with the node's progress bar and Cancel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import folder_paths
from comfy_api.latest import io, ui
from torch import Tensor

from ...qusr_train.captions.cache import AT_THE_SCREEN, CaptionCache, caption_images
from ...qusr_train.captions.captioner import Captioner
from .host import check_image, checkpoint_interrupt, progress


def caption_cache() -> CaptionCache:
    """In ComfyUI's user folder, since the temporary one is emptied at every start."""
    return CaptionCache(Path(folder_paths.get_user_directory()) / "qusr" / "captions.sqlite", patience=AT_THE_SCREEN)


def reporter(total: int) -> Callable[[int], None]:
    """Moves the node's progress bar on, and stops at Cancel."""
    bar = progress(total)

    def report(count: int) -> None:
        checkpoint_interrupt()
        if count:
            bar.update(count)

    return report


def caption_batch(image: Tensor, captioner: Captioner) -> io.NodeOutput:
    """One prompt for each image of an IMAGE, from the cache where it knows them."""
    images = list(check_image(image).rgb)
    captions = caption_images(captioner, images, caption_cache(), reporter(len(images)))
    prompts = [caption.text for caption in captions]
    return io.NodeOutput(prompts, ui=ui.PreviewText("\n\n".join(prompts)))
