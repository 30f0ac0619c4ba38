"""Quality prompt: measuring it on the image, and encoding it as the reference does."""

from __future__ import annotations

import dataclasses
import json

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..qusr_train.captions.measured import describe, measure_quality
from ..qusr_train.model.tokenizer import (
    CONTEXT_LENGTH,
    END_TOKEN,
    FITS,
    PAD_TOKEN,
    START_TOKEN,
    fit_prompt,
    prioritise_prompt,
)
from .native.comfy_types import CLIP, CONDITIONING
from .native.host import check_image
from .native.schema import found_by
from .native.sockets import CATEGORY, TilesSocket
from .tiles import PhotoTiles


@dataclasses.dataclass(frozen=True)
class EncodedPrompt:
    """Conditioning with what was read of the text."""

    conditioning: CONDITIONING
    used: int
    """Most tokens read of any prompt, without start and end."""
    cut: int
    """Most tokens cut off any prompt."""
    cut_text: str


def encode_prompts(clip: CLIP, prompts: list[str], fit: str = "truncate") -> EncodedPrompt:
    """Encode prompts, one for each image, as one batched CONDITIONING.

    ComfyUI would spread a long prompt over several windows and read brackets as weights; the
    reference reads the first 75 tokens and takes every character literally, so we do too.

    Args:
        clip: CLIP.
        prompts: one for each image.
        fit: `truncate` as the reference, or `prioritise` (see `prioritise_prompt`).
    """
    if clip is None:
        raise ValueError("clip: is missing; the checkpoint has no text encoder. Use QUSR Nano Loader's clip output")
    conds, pooled = [], []
    fitted = [prioritise_prompt(prompt) if fit == "prioritise" else fit_prompt(prompt) for prompt in prompts]
    for prompt, one in zip(prompts, fitted, strict=True):
        windows = clip.tokenize(prompt, disable_weights=True)
        if "embedding:" not in prompt:
            row = [START_TOKEN, *one.tokens, END_TOKEN]
            row += [PAD_TOKEN] * (CONTEXT_LENGTH - len(row))
            windows = {name: [[(token, 1.0) for token in row]] for name in windows}
        else:  # textual inversion: keep ComfyUI's own tokens, first window only
            windows = {name: window[:1] for name, window in windows.items()}
        entry = clip.encode_from_tokens_scheduled(windows)[0]
        conds.append(entry[0])
        if entry[1].get("pooled_output") is not None:
            pooled.append(entry[1]["pooled_output"])
    extra = {"pooled_output": torch.cat(pooled)} if len(pooled) == len(conds) else {}
    return EncodedPrompt(
        conditioning=[[torch.cat(conds), extra]],
        used=max(len(one.tokens) for one in fitted),
        cut=max(one.cut for one in fitted),
        cut_text=next((one.cut_text for one in fitted if one.cut), ""),
    )


def encode_tiles(clip: CLIP, prompts: list[str], tiles: PhotoTiles, fit: str = "truncate") -> EncodedPrompt:
    """Encode a prompt for each tile of each image, or one for all.

    Args:
        clip: CLIP.
        prompts: those of the first image's tiles, then of the next's.
        tiles: where they belong.
        fit: see `encode_prompts`.

    Returns:
        CONDITIONING with an entry for each tile, limited to its area; in it a prompt for each image.

    Raises:
        ValueError: another number of prompts.
    """
    count = len(tiles.windows)
    if len(prompts) not in (1, count * tiles.images):
        raise ValueError(
            f"prompt: got {len(prompts)} prompts for {count * tiles.images} tiles; connect QUSR Photo Tiles' images to "
            "the node that makes the prompts, or use one prompt"
        )
    encoded = encode_prompts(clip, prompts, fit)
    if len(prompts) == 1:
        return encoded
    ((cond, extra),) = encoded.conditioning
    parts = []
    for index, area in enumerate(tiles.areas):
        shared = {name: value[index::count] for name, value in extra.items()}
        parts.append([cond[index::count], {**shared, "area": area, "strength": 1.0, "set_area_to_bounds": False}])
    return dataclasses.replace(encoded, conditioning=parts)


class QUSRQualityPrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="QUSRQualityPrompt",
            display_name="QUSR Quality Prompt (measured)",
            category=CATEGORY,
            **found_by("caption, describe image, interrogate, image quality, blur detection, noise detection, iqa"),
            description=(
                "Measures clarity, color, noise and lighting and puts them into words, without a language model. "
                "Connect the small photo, not the enlarged one: enlarging hides noise."
            ),
            inputs=[
                io.Image.Input("image", tooltip="The photo before enlarging. A batch gives one prompt for each image.")
            ],
            outputs=[
                io.String.Output(
                    display_name="prompt", is_output_list=True, tooltip="One quality prompt for each image."
                ),
                io.String.Output(
                    display_name="numbers", is_output_list=True, tooltip="The measurements behind each prompt, as JSON."
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, image: Tensor) -> io.NodeOutput:
        qualities = measure_quality(check_image(image).rgb)
        prompts = [describe(quality) for quality in qualities]
        numbers = [json.dumps(dataclasses.asdict(q)) for q in qualities]
        return io.NodeOutput(prompts, numbers, ui=ui.PreviewText("\n\n".join(prompts)))


class QUSREncodePrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="QUSREncodePrompt",
            display_name="QUSR Encode Prompt",
            category=CATEGORY,
            **found_by("clip text encode, prompt, conditioning, quality prompt"),
            description=(
                "Encodes the quality prompt. The text encoder reads 75 tokens; what does not fit is cut and shown. "
                "Brackets are plain characters here. Several prompts become one batch, one for each image."
            ),
            inputs=[
                io.Clip.Input("clip", tooltip="Text encoder of the same model."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    default="",
                    tooltip="From QUSR Quality Prompt, or your own words. May be empty.",
                ),
                TilesSocket.Input(
                    "tiles",
                    optional=True,
                    tooltip="From QUSR Photo Tiles: prompt then holds one text for each tile, used only there.",
                ),
                io.Combo.Input(
                    "fit",
                    options=list(FITS),
                    default="truncate",
                    optional=True,
                    tooltip="A prompt that is too long: truncate reads its beginning, as the authors' code does. "
                    "prioritise keeps what it says about quality and cuts content.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="conditioning"),
                io.Int.Output(display_name="tokens_used", tooltip="Tokens read, 75 at most."),
                io.Int.Output(display_name="tokens_cut", tooltip="Tokens that did not fit; 0 is best."),
                io.String.Output(display_name="cut_text", tooltip="The part of the prompt that is not read."),
            ],
            is_input_list=True,
        )

    @classmethod
    def execute(
        cls,
        clip: list[CLIP],
        prompt: list[str],
        tiles: list[PhotoTiles] | None = None,
        fit: list[str] | None = None,
    ) -> io.NodeOutput:
        how = fit[0] if fit else "truncate"
        encoded = encode_tiles(clip[0], prompt, tiles[0], how) if tiles else encode_prompts(clip[0], prompt, how)
        message = f"{encoded.used} tokens read"
        if encoded.cut:
            message += f", {encoded.cut} cut: …{encoded.cut_text.strip()}"
        return io.NodeOutput(
            encoded.conditioning, encoded.used, encoded.cut, encoded.cut_text, ui=ui.PreviewText(message)
        )
