"""nano's text encoder: a small CLIP text model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InputError
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


@dataclass(frozen=True)
class Encoded:
    """What the text model returns, under the names of transformers."""

    last_hidden_state: Tensor
    """(B, 77, text_dim)."""


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj)
        )  # (B, heads, 77, width / heads)
        read = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_proj(read.transpose(1, 2).flatten(2))


class _MLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc1(x)
        return self.fc2(h * torch.sigmoid(1.702 * h))  # "quick" GELU


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.layer_norm1, self.self_attn = nn.LayerNorm(width), _Attention(width, heads)
        self.layer_norm2, self.mlp = nn.LayerNorm(width), _MLP(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class _Embeddings(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.token_embedding, self.position_embedding = nn.Embedding(VOCABULARY_SIZE, width), nn.Embedding(77, width)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.token_embedding(input_ids) + self.position_embedding.weight[: input_ids.shape[1]]


class _Encoder(nn.Module):
    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(width, heads) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class TextEncoder(nn.Module):
    """CLIP's text model, with the key names and the arithmetic of transformers' `CLIPTextModel`.

    Our own, since importing transformers' for two layers takes 4 seconds and 0.25 GB.
    """

    def __init__(self, config: NanoConfig) -> None:
        super().__init__()
        width = config.text_dim
        self.embeddings = _Embeddings(width)
        self.encoder = _Encoder(width, config.text_layers, max(1, width // 32))
        self.final_layer_norm = nn.LayerNorm(width)
        for name, parameter in self.named_parameters():
            if name.endswith("embedding.weight"):
                nn.init.normal_(parameter, std=0.02)
            elif parameter.ndim == 2:
                nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5 * (2 * config.text_layers) ** -0.5)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings.token_embedding

    def forward(self, input_ids: Tensor) -> Encoded:
        """(B, 77) token ids -> the last hidden state, normalised."""
        return Encoded(self.final_layer_norm(self.encoder(self.embeddings(input_ids))))


def build_text_encoder(config: NanoConfig, state: dict[str, Tensor] | None = None) -> TextEncoder:
    """The text model, with random weights, or in evaluation mode with those of `state`.

    Raises:
        InputError: keys or shapes do not fit.
    """
    encoder = TextEncoder(config)
    if state is None:
        return encoder
    wrong = sorted(set(encoder.state_dict()) ^ set(strip_text_prefix(state)))
    if wrong:
        raise InputError(f"text encoder: keys do not fit: {', '.join(wrong[:5])}")
    encoder.load_state_dict(strip_text_prefix(state))
    return encoder.eval()
