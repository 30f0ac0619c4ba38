"""nano's text encoder: a small CLIP text model of transformers."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .nano import NanoConfig
from .tokenizer import VOCABULARY_SIZE

_TEXT_PREFIX = "text_model."


def text_encoder_config(config: NanoConfig) -> dict[str, Any]:
    """The CLIP text model's configuration, in Hugging Face's terms (ComfyUI reads the same keys)."""
    return {
        "vocab_size": VOCABULARY_SIZE,
        "hidden_size": config.text_dim,
        "intermediate_size": 4 * config.text_dim,
        "num_hidden_layers": config.text_layers,
        "num_attention_heads": max(1, config.text_dim // 32),
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": 0,
        "projection_dim": config.text_dim,
    }


def strip_text_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """transformers 4 prefixes the text model's keys with `text_model.`, transformers 5 does not."""
    return {key.removeprefix(_TEXT_PREFIX): value for key, value in state.items() if "position_ids" not in key}


def build_text_encoder(config: NanoConfig, state: dict[str, Tensor] | None = None) -> Any:
    """The small CLIP text model of transformers (4.x or 5.x), in evaluation mode when weights are given."""
    from transformers import CLIPTextConfig, CLIPTextModel

    encoder = CLIPTextModel(CLIPTextConfig(**text_encoder_config(config)))
    if state is not None:
        prefix = "text_model." if any(k.startswith("text_model.") for k in encoder.state_dict()) else ""
        missing, unexpected = encoder.load_state_dict({prefix + k: v for k, v in state.items()}, strict=False)
        wrong = [key for key in missing if "position_ids" not in key] + list(unexpected)
        if wrong:
            raise ValueError(f"text encoder: keys do not fit: {', '.join(wrong[:5])}")
        encoder.eval()
    return encoder
