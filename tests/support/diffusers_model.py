"""The golden model of tests/golden as a whole folder in diffusers' form, and as one published-style file."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def golden_folder(path: Path) -> Path:
    """UNet and VAE linked, the text encoder with the embedding rows of the golden prompts."""
    from transformers import CLIPTextConfig, CLIPTextModel

    path.mkdir(parents=True, exist_ok=True)
    for part in ("unet", "vae"):
        (path / part).symlink_to(GOLDEN / "model" / part, target_is_directory=True)
    folder = GOLDEN / "model" / "text_encoder"
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    state = {
        key.removeprefix("text_model."): value for key, value in load_file(folder / "used_tokens.safetensors").items()
    }
    rows = torch.zeros(settings["vocab_size"], settings["hidden_size"])
    rows[state.pop("token_ids").long()] = state.pop("token_rows").float()
    state["embeddings.token_embedding.weight"] = rows
    encoder = CLIPTextModel(CLIPTextConfig(**settings))
    prefix = "text_model." if any(key.startswith("text_model.") for key in encoder.state_dict()) else ""
    found = encoder.load_state_dict({f"{prefix}{key}": value.float() for key, value in state.items()}, strict=False)
    missing = [key for key in [*found.missing_keys, *found.unexpected_keys] if "position_ids" not in key]
    if missing:
        raise RuntimeError(f"golden text encoder: {missing}")
    encoder.save_pretrained(path / "text_encoder")
    return path
