"""A real Qwen2.5-VL or Qwen3-VL, tiny, with random weights and a tokenizer made on the spot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build(folder: Path, family: str = "qwen2_5_vl") -> Path:
    """Write a model folder as Hugging Face lays it out; returns it."""
    import transformers
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2VLImageProcessor

    folder.mkdir(parents=True, exist_ok=True)
    letters = sorted(ByteLevel.alphabet())
    vocabulary = {letter: n for n, letter in enumerate([*letters, "th", *SPECIAL])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\nt h\n", encoding="utf-8")
    described = {
        "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "tokenizer_class": "Qwen2Tokenizer",
        "additional_special_tokens": [t for t in SPECIAL if t not in ("<|im_end|>", "<|endoftext|>")],
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(described), encoding="utf-8")
    fast = transformers.AutoTokenizer.from_pretrained(folder)
    fast.chat_template = TEMPLATE
    ids = {name: fast.convert_tokens_to_ids(name) for name in SPECIAL}
    text: dict[str, Any] = {
        "vocab_size": len(fast), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096, "head_dim": 8,
        "eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"], "bos_token_id": ids["<|endoftext|>"],
    }  # fmt: skip
    common = {
        "image_token_id": ids["<|image_pad|>"], "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"], "vision_end_token_id": ids["<|vision_end|>"],
    }  # fmt: skip
    vision: dict[str, Any] = {
        "depth": 2,
        "num_heads": 2,
        "in_channels": 3,
        "out_hidden_size": 32,
        "spatial_merge_size": 2,
    }
    torch.manual_seed(0)
    if family == "qwen2_5_vl":
        text["rope_scaling"] = {"type": "mrope", "rope_type": "default", "mrope_section": [1, 1, 2]}
        vision |= {"hidden_size": 32, "intermediate_size": 48, "patch_size": 14, "fullatt_block_indexes": [1]}
        config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **common)
        model = transformers.Qwen2_5_VLForConditionalGeneration(config)
        pixels = Qwen2VLImageProcessor(patch_size=14, merge_size=2)
        processor = transformers.Qwen2_5_VLProcessor(
            image_processor=pixels, tokenizer=fast, chat_template=TEMPLATE,
            video_processor=transformers.Qwen2VLVideoProcessor(patch_size=14, merge_size=2),
        )  # fmt: skip
    else:
        text["rope_scaling"] = {"rope_type": "default", "mrope_section": [1, 1, 2], "mrope_interleaved": True}
        vision |= {
            "hidden_size": 32, "intermediate_size": 48, "patch_size": 16, "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
        }  # fmt: skip
        config = transformers.Qwen3VLConfig(text_config=text, vision_config=vision, **common)
        model = transformers.Qwen3VLForConditionalGeneration(config)
        pixels = Qwen2VLImageProcessor(patch_size=16, merge_size=2)
        processor = transformers.Qwen3VLProcessor(
            image_processor=pixels, tokenizer=fast, chat_template=TEMPLATE,
            video_processor=transformers.Qwen3VLVideoProcessor(patch_size=16, merge_size=2),
        )  # fmt: skip
    # Random weights of the usual size barely see the picture; larger ones answer differently to each.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["model_type"] == family
    return folder
