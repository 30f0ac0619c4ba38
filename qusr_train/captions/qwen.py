"""Captions from a local Qwen-VL through transformers 4.50 to 5.x; nothing is imported before it is used."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..images.check import enlarge
from ..images.write import to_picture
from ..out_of_memory import is_out_of_memory
from ..packages import pip_command, require_packages
from .captioner import Caption, CaptionError, Progress
from .instruction import INSTRUCTION, MAX_WORDS, request_for, tidy

log = logging.getLogger(__name__)

FAMILIES = {"qwen2_5_vl": "Qwen2.5-VL", "qwen3_vl": "Qwen3-VL", "qwen3_vl_moe": "Qwen3-VL"}
DTYPES = ("auto", "bfloat16", "float16", "float32")
QUANTIZATIONS = ("none", "8 bit", "4 bit")
ATTENTIONS = ("auto", "sdpa", "flash_attention_2", "eager")
SMALLEST_SIDE = 56  # pixels: two of the model's patches
MOST_PIXELS = 1280 * 28 * 28  # about a megapixel, 1280 visual tokens
BATCH = 4


@dataclass(frozen=True)
class QwenModel:
    """What is loaded from a model folder."""

    model: Any
    processor: Any


@dataclass(frozen=True)
class QwenFolder:
    """A model folder as Hugging Face lays it out, and how to load it."""

    path: Path
    dtype: str = "auto"
    quantization: str = "none"
    attention: str = "auto"

    @property
    def identity(self) -> str:
        """The weights, by configuration and file sizes: reading gigabytes for a hash would cost more than it saves."""
        digest = hashlib.sha256()
        for file in sorted(self.path.glob("*")):
            if file.name == "config.json":
                digest.update(file.read_bytes())
            elif file.suffix in (".safetensors", ".bin"):
                digest.update(f"{file.name} {file.stat().st_size}".encode())
        return f"{self.path.name} {digest.hexdigest()[:16]} {self.dtype} {self.quantization}"

    def config(self) -> dict[str, Any]:
        """The folder's config.json.

        Raises:
            CaptionError: not a folder with a Qwen-VL model.
        """
        try:
            config = json.loads((self.path / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CaptionError(
                f"{self.path} holds no readable config.json; give the folder of a Qwen2.5-VL or Qwen3-VL model",
                field="model",
            ) from error
        family = config.get("model_type")
        if family not in FAMILIES:
            raise CaptionError(
                f"expected {' or '.join(sorted({*FAMILIES.values()}))}, but {self.path} is {family}", field="model"
            )
        if not any(self.path.glob("*.safetensors")) and not any(self.path.glob("*.bin")):
            raise CaptionError(f"{self.path} holds no weights; its download may be incomplete", field="model")
        return config

    @property
    def is_quantized(self) -> bool:
        """Held in 4 or 8 bits; such weights stay on the device they were loaded to."""
        return self.quantization != "none" or "quantization_config" in self.config()


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto`: bfloat16 on a GPU that has it, else float16; float32 on the CPU."""
    if name not in DTYPES:
        raise CaptionError(f"expected one of {', '.join(DTYPES)}, but got {name!r}", field="dtype")
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cpu":
        return torch.float32
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.bfloat16
    return torch.float16


def require_for_qwen(quantization: str) -> None:
    """What a Qwen needs. Raises MissingPackages."""
    require_packages("Qwen", ["transformers"], "The measured captions and those of a server work without.")
    if quantization != "none":
        packages = ["accelerate", "bitsandbytes"]
        require_packages(quantization, packages, "none works without.", "quantization")


def load_qwen(folder: QwenFolder, device: torch.device, target: torch.device | None = None) -> QwenModel:
    """Load model and processor.

    Args:
        folder: what to load and how.
        device: where the weights are put.
        target: where the model will run, if that is another device; decides `auto` of the dtype.

    Raises:
        CaptionError: transformers is too old, or the folder cannot be loaded; says what to do.
        MissingPackages: no transformers, or for a quantized model no accelerate.
    """
    config = folder.config()
    require_for_qwen(folder.quantization)
    if folder.is_quantized:  # also by its own files
        require_packages("a quantized model", ["accelerate"], "none works without.", "quantization")
    import transformers

    try:
        from transformers import AutoModelForImageTextToText, AutoProcessor
    except ImportError as error:
        raise CaptionError(
            f"Qwen needs a newer transformers ({error}); {pip_command('--upgrade', 'transformers')}"
        ) from error
    dtype = choose_dtype(folder.dtype, target or device)
    options: dict[str, Any] = {"local_files_only": True}
    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    options["dtype" if version >= (4, 56) else "torch_dtype"] = dtype
    if folder.attention not in ATTENTIONS:
        raise CaptionError(f"expected one of {', '.join(ATTENTIONS)}, but got {folder.attention!r}", field="attention")
    if folder.attention != "auto":
        options["attn_implementation"] = folder.attention
    if folder.quantization not in QUANTIZATIONS:
        raise CaptionError(
            f"expected one of {', '.join(QUANTIZATIONS)}, but got {folder.quantization!r}", field="quantization"
        )
    if folder.quantization != "none":
        options["quantization_config"] = _bits(folder, config, dtype, target or device)
    if folder.is_quantized:
        options["device_map"] = {"": target or device}
    try:
        processor = AutoProcessor.from_pretrained(folder.path, local_files_only=True)
        model = AutoModelForImageTextToText.from_pretrained(folder.path, **options)
    except (OSError, ValueError, ImportError, RuntimeError, KeyError) as error:
        if is_out_of_memory(error):
            raise
        raise CaptionError(
            f"{folder.path} cannot be loaded with transformers {transformers.__version__} "
            f"({first_line(error)}). {_remedy(error, config)}",
            field="model",
        ) from error
    processor.tokenizer.padding_side = "left"  # answers of a batch begin at the same place
    model.eval().requires_grad_(False)
    if not folder.is_quantized:
        model.to(device)
    return QwenModel(model, processor)


def _bits(folder: QwenFolder, config: dict[str, Any], dtype: torch.dtype, device: torch.device) -> Any:
    if "quantization_config" in config:
        raise CaptionError(f"{folder.path.name} is quantized already; choose none", field="quantization")
    if device.type == "cpu":
        raise CaptionError("4 and 8 bit need a GPU; choose none", field="quantization")
    from transformers import BitsAndBytesConfig

    if folder.quantization == "4 bit":
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=dtype, bnb_4bit_quant_type="nf4")
    return BitsAndBytesConfig(load_in_8bit=True)


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _remedy(error: Exception, config: dict[str, Any]) -> str:
    method = config.get("quantization_config", {}).get("quant_method", "")
    text = str(error).lower()
    if "flash" in text:
        return "Choose attention sdpa, or install flash-attn."
    if method == "awq":
        return f"AWQ weights need a GPU and gptqmodel (or autoawq with transformers 4): {pip_command('gptqmodel')}"
    if "accelerate" in text:
        return pip_command("accelerate")
    if "qwen3" in config.get("model_type", ""):
        return "Qwen3-VL needs transformers 4.57 or newer; else the download may be incomplete."
    return "The download may be incomplete; fetch the folder again."


class KeptQwen:
    """Opens a folder once and keeps the model, for the command line."""

    def __init__(self, folder: QwenFolder, device: torch.device) -> None:
        self.folder = folder
        self.device = device
        self._loaded: QwenModel | None = None

    def __call__(self) -> AbstractContextManager[QwenModel]:
        if self._loaded is None:
            self._loaded = load_qwen(self.folder, self.device)
        return contextlib.nullcontext(self._loaded)


@dataclass(frozen=True)
class QwenCaptioner:
    """Asks a local Qwen-VL. The same picture gets the same answer with temperature 0, or for the same seed."""

    folder: QwenFolder
    open: Callable[[], AbstractContextManager[QwenModel]]
    """Makes the model ready on its device, and lets it go afterwards."""
    instruction: str = INSTRUCTION
    max_words: int = MAX_WORDS
    temperature: float = 0.0
    seed: int = 0
    batch: int = BATCH

    @property
    def identity(self) -> str:
        chance = f" temperature {self.temperature:g} seed {self.seed}" if self.temperature > 0 else ""
        return f"{self.folder.identity}{chance}: {request_for(self.instruction, self.max_words)}"

    def describe(self, images: Sequence[Tensor], progress: Progress) -> list[Caption]:
        """See `captioners.Captioner`; `progress` is also called with 0 after every word."""
        captions: list[Caption] = []
        # Chance must not depend on the neighbours in a batch.
        size = 1 if self.temperature > 0 else max(1, self.batch)
        with self.open() as loaded:
            while len(captions) < len(images):
                some = images[len(captions) : len(captions) + size]
                try:
                    answers = self._answer(loaded, some, progress)
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    if size == 1:
                        raise CaptionError(
                            "out of GPU memory for one picture; choose a smaller model, or 4 bit quantization"
                        ) from error
                    size = max(1, size // 2)
                    log.warning("QUSR: out of memory while captioning, trying again with %d pictures at once", size)
                    continue
                captions += [Caption(tidy(answer, self.max_words)) for answer in answers]
                progress(len(some))
        return captions

    def _answer(self, loaded: QwenModel, images: Sequence[Tensor], progress: Progress) -> list[str]:
        from transformers import StoppingCriteria, StoppingCriteriaList

        class Tell(StoppingCriteria):  # type: ignore[misc]
            def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
                progress(0)
                return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)

        model, processor = loaded.model, loaded.processor
        device = next(model.parameters()).device
        question = {"type": "text", "text": request_for(self.instruction, self.max_words)}
        messages = [{"role": "user", "content": [{"type": "image"}, question]}]
        text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        inputs = processor(
            text=[text] * len(images),
            images=[as_picture(image) for image in images],
            padding=True,
            return_tensors="pt",
        ).to(device)
        chance: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if self.temperature > 0:
            chance = {"do_sample": True, "temperature": self.temperature}
        devices = [device] if device.type == "cuda" else []
        with torch.inference_mode(), torch.random.fork_rng(devices):
            torch.manual_seed(self.seed)
            tokens = model.generate(
                **inputs,
                max_new_tokens=2 * self.max_words + 32 if self.max_words else 512,
                stopping_criteria=StoppingCriteriaList([Tell()]),
                **chance,
            )
        return processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def as_picture(image: Tensor) -> Image.Image:
    """(3, H, W) in [0, 1] as an 8-bit picture of a size the model takes; unchanged where possible."""
    height, width = image.shape[-2:]
    scale = max(1.0, SMALLEST_SIDE / min(height, width))
    scale = min(scale, (MOST_PIXELS / (height * width)) ** 0.5) if height * width * scale**2 > MOST_PIXELS else scale
    x = image.detach().float().cpu()
    if scale != 1.0:
        x = enlarge(x[None], max(28, round(height * scale)), max(28, round(width * scale)))[0]
    return to_picture(x)
