"""nano's text model equals transformers' CLIPTextModel, without importing it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from qusr_train.errors import InputError
from qusr_train.model.nano import NanoConfig
from qusr_train.model.text_encoder import build_text_encoder, strip_text_prefix, text_encoder_config
from qusr_train.model.tokenizer import encode_tokens


def test_equals_transformers(tiny_config: NanoConfig) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    theirs = transformers.CLIPTextModel(transformers.CLIPTextConfig(**text_encoder_config(tiny_config))).eval()
    ours = build_text_encoder(tiny_config, strip_text_prefix(theirs.state_dict()))
    tokens = encode_tokens(["", "a very blurry photo, strong noise", "sharp " * 100])
    with torch.no_grad():
        expected, found = (model(input_ids=tokens).last_hidden_state for model in (theirs, ours))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_keys_that_do_not_fit_are_named(tiny_config: NanoConfig) -> None:
    state = build_text_encoder(tiny_config).state_dict()
    state["other.weight"] = state.pop("final_layer_norm.weight")
    with pytest.raises(InputError, match=r"final_layer_norm\.weight, other\.weight"):
        build_text_encoder(tiny_config, state)


def test_transformers_is_not_imported() -> None:
    code = "import sys, qusr_train.restore; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
