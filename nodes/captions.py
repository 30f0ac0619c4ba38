"""Quality prompts from a language model that sees the photo: a local Qwen-VL, or a server."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import folder_paths
from comfy_api.latest import io
from torch import Tensor

from ..qusr_train.captions.captioner import CaptionError
from ..qusr_train.captions.instruction import INSTRUCTION, MAX_WORDS
from ..qusr_train.captions.key import HOSTS_VARIABLE, KEY_VARIABLE
from ..qusr_train.captions.qwen import (
    ATTENTIONS,
    DTYPES,
    QUANTIZATIONS,
    QwenCaptioner,
    QwenFolder,
    require_for_qwen,
)
from ..qusr_train.captions.qwen_models import PUBLISHED, RESEARCH, download_qwen, find_qwen
from ..qusr_train.captions.server import ServerCaptioner, parse_addresses
from ..qusr_train.packages import MissingPackages
from .native.captioning import caption_batch
from .native.errors import input_names
from .native.host import checkpoint_interrupt, model_folders, progress
from .native.qwen import forget_qwen, open_qwen
from .native.schema import advanced, found_by
from .native.sockets import CATEGORY

QWEN_FOLDER = "LLM"  # where other extensions put language models too

folder_paths.add_model_folder_path(QWEN_FOLDER, str(Path(folder_paths.models_dir) / QWEN_FOLDER))


MOST_WORDS = 400


def _image() -> io.Image.Input:
    return io.Image.Input("image", tooltip="The photo before enlarging. A batch gives one prompt for each image.")


def _instruction() -> list[io.Input]:
    return [
        io.String.Input(
            "instruction", multiline=True, default=INSTRUCTION, tooltip="What the model is asked. The paper's words."
        ),
        io.Int.Input(
            "max_words",
            default=MAX_WORDS,
            min=1,
            max=MOST_WORDS,
            tooltip="Longest answer in words, 60 as in the reference. QUSR Encode Prompt reads 75 tokens.",
        ),
    ]


def _allowed_words(max_words: int) -> bool | str:
    """Takes the place of ComfyUI's own check, which would refuse the 0 ("no limit") of workflows from version 0.1."""
    return 0 <= max_words <= MOST_WORDS or f"max_words: expected 1 to {MOST_WORDS}, but got {max_words}"


def _prompt() -> io.String.Output:
    return io.String.Output(display_name="prompt", is_output_list=True, tooltip="One quality prompt for each image.")


class QUSRQwenPrompt(io.ComfyNode):
    @classmethod
    @advanced("temperature", "seed", "dtype", "quantization", "attention", "keep_loaded")
    def define_schema(cls) -> io.Schema:
        research = ", ".join(model.name for model in PUBLISHED.values() if model.licence == RESEARCH)
        local = find_qwen(model_folders(QWEN_FOLDER))
        return io.Schema(
            node_id="QUSRQwenPrompt",
            display_name="QUSR Qwen Prompt (local)",
            category=CATEGORY,
            **found_by("caption, describe image, interrogate, qwen-vl, qwen2.5-vl, qwen3-vl, vlm, llm, image to text"),
            description=(
                "Describes the photo with a Qwen-VL on this computer, as the paper does. Answers are remembered: the "
                "same photo is not asked about twice. Needs the transformers library."
            ),
            inputs=[
                _image(),
                io.Combo.Input(
                    "model",
                    options=[*PUBLISHED, *sorted(set(local) - set(PUBLISHED))],
                    tooltip=(
                        "A Qwen2.5-VL or Qwen3-VL folder in models/LLM. The paper uses Qwen2.5-VL-7B. Apache-2.0, "
                        f"except for research use only: {research}."
                    ),
                ),
                io.Boolean.Input(
                    "download",
                    default=False,
                    label_on="download",
                    label_off="local only",
                    tooltip="On: fetch the model from Hugging Face into models/LLM if it is not there. Many gigabytes.",
                ),
                *_instruction(),
                io.Float.Input(
                    "temperature",
                    default=0.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="0: always the likeliest words. Above: chance, which follows the seed.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    tooltip="Another seed gives another answer, if temperature is above 0.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(DTYPES),
                    tooltip="auto: bfloat16 on a GPU that has it, else float16; float32 on the CPU.",
                ),
                io.Combo.Input(
                    "quantization",
                    options=list(QUANTIZATIONS),
                    tooltip="8 or 4 bit take a half or a quarter of the memory; need a GPU and bitsandbytes.",
                ),
                io.Combo.Input(
                    "attention",
                    options=list(ATTENTIONS),
                    tooltip="auto: what transformers chooses. flash_attention_2 needs the flash-attn library.",
                ),
                io.Boolean.Input(
                    "keep_loaded",
                    default=False,
                    label_on="keep",
                    label_off="release",
                    tooltip=(
                        "Off: the memory is given back before the next node runs. On: quicker for many photos; the "
                        "model still makes room when another needs it."
                    ),
                ),
            ],
            outputs=[_prompt()],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(
        cls, model: str, download: bool, quantization: str = "none", max_words: int = MAX_WORDS
    ) -> bool | str:
        """Before anything runs: a missing model or package must not be noticed after minutes."""
        folders = model_folders(QWEN_FOLDER)
        if model not in find_qwen(folders) and not (download and model in PUBLISHED):
            return f"model: {_missing(model, folders)}"
        try:
            require_for_qwen(quantization)
        except MissingPackages as error:
            return str(error)
        return _allowed_words(max_words)

    @classmethod
    def execute(
        cls,
        image: Tensor,
        model: str,
        download: bool,
        instruction: str,
        max_words: int,
        temperature: float,
        seed: int,
        dtype: str,
        quantization: str,
        attention: str,
        keep_loaded: bool,
    ) -> io.NodeOutput:
        folder = QwenFolder(locate_qwen(model, download), dtype, quantization, attention)
        captioner = QwenCaptioner(
            folder, partial(open_qwen, folder), instruction, max_words, temperature=temperature, seed=seed
        )
        try:
            return caption_batch(image, captioner)
        finally:
            if not keep_loaded:
                forget_qwen()


def locate_qwen(model: str, download: bool) -> Path:
    """The folder of a model, fetched if that is wanted.

    Raises:
        CaptionError: not there, or cannot be fetched.
    """
    folders = model_folders(QWEN_FOLDER)
    found = find_qwen(folders).get(model)
    if found:
        return found
    if not download or model not in PUBLISHED:
        raise CaptionError(_missing(model, folders), "model")
    bar = progress(1)

    def report(done: int, total: int) -> None:
        checkpoint_interrupt()
        bar.update_absolute(done, total)

    download_qwen(PUBLISHED[model].repository, folders[0] / model, report)
    return folders[0] / model


def _missing(model: str, folders: list[Path]) -> str:
    how = "switch download on, or put its files there" if model in PUBLISHED else "press R to refresh the list"
    return f"{model[:100]} is not in {', '.join(str(folder) for folder in folders)}; {how}"


class QUSRServerPrompt(io.ComfyNode):
    @classmethod
    @advanced("seed", "key_variable", "timeout")
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="QUSRServerPrompt",
            display_name="QUSR Server Prompt",
            category=CATEGORY,
            **found_by(
                "caption, describe image, interrogate, ollama, vllm, llama.cpp, openai, vlm, llm, image to text"
            ),
            description=(
                "Describes the photo with a model behind an OpenAI-compatible server: vLLM, Ollama, llama.cpp. The "
                "photo is sent to that server. Answers are remembered: the same photo is not asked about twice."
            ),
            inputs=[
                _image(),
                io.String.Input(
                    "base_url",
                    default="http://127.0.0.1:8000/v1",
                    tooltip=(
                        "The server's address, usually ending in /v1; Ollama: http://127.0.0.1:11434/v1. Several, "
                        "separated by commas, share the work."
                    ),
                ),
                io.String.Input(
                    "model", default="", tooltip="The name under which the server knows its model. It must see images."
                ),
                *_instruction(),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0x7FFFFFFF,
                    tooltip="Sent to the server. Another seed asks anew.",
                ),
                io.String.Input(
                    "key_variable",
                    default=KEY_VARIABLE,
                    tooltip=(
                        f"Name of the environment variable with the key, if the server wants one: {KEY_VARIABLE} or a "
                        f"longer name that begins so. Sent only to hosts named in {HOSTS_VARIABLE}. Never type the "
                        "key itself here."
                    ),
                ),
                io.Float.Input(
                    "timeout",
                    default=120.0,
                    min=1.0,
                    max=3600.0,
                    step=1.0,
                    tooltip="Seconds to wait for one answer. Passing trouble is tried again, four times in all.",
                ),
            ],
            outputs=[_prompt()],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, max_words: int = MAX_WORDS) -> bool | str:
        return _allowed_words(max_words)

    @classmethod
    def execute(
        cls,
        image: Tensor,
        base_url: str,
        model: str,
        instruction: str,
        max_words: int,
        seed: int,
        key_variable: str,
        timeout: float,
    ) -> io.NodeOutput:
        with input_names(addresses="base_url"):
            captioner = ServerCaptioner(
                parse_addresses(base_url),
                model.strip(),
                instruction,
                max_words,
                seed=seed,
                timeout=timeout,
                key_variable=key_variable.strip(),
            )
            return caption_batch(image, captioner)
