"""CLIP's tokenizer and fitting a prompt to what it reads, without ComfyUI.

The vocabulary is OpenAI CLIP's (MIT licence), the one every Stable Diffusion text encoder uses.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError

MERGES_FILE = Path(__file__).parent / "clip_merges.txt"
START_TOKEN, END_TOKEN = 49406, 49407
PAD_TOKEN = 0  # Stable Diffusion 2.x pads with "!"
CONTEXT_LENGTH = 77
VOCABULARY_SIZE = 49408
FITS = ("truncate", "prioritise")

QUALITY_WORDS = {
    "clarity": r"clarity|clear|blur|sharp|soft|focus|detail|resolution|crisp|pixelat|distinct",
    "color": r"colou?r|hue|saturat|tint|muted|vibrant|monochrom|black-and-white|grayscale",
    "noise": r"nois|grain|artifact|artefact|compress",
    "lighting": r"light|lit\b|bright|dark|dim\b|shadow|expos|contrast|glare|illuminat",
}
"""How a clause about each of the four qualities of the paper's instruction is known, by beginnings of words."""


@dataclass(frozen=True)
class FittedPrompt:
    """A prompt cut to what the text encoder reads."""

    tokens: tuple[int, ...]
    """At most 75 token ids, without start, end and padding."""
    cut: int
    """How many tokens did not fit."""
    kept_text: str
    """The part of the prompt that is read."""
    cut_text: str
    """The part that is not."""


def _byte_characters() -> list[str]:
    """CLIP's printable stand-in for each of the 256 bytes, in vocabulary order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


@lru_cache(maxsize=1)
def _tokenizer():  # type: ignore[no-untyped-def]  # tokenizers is imported only when needed
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    lines = MERGES_FILE.read_text(encoding="utf-8").split("\n")
    merges = [(left, right) for left, right in map(str.split, lines[1 : 49152 - 256 - 2 + 1])]
    characters = _byte_characters()
    words = [*characters, *(c + "</w>" for c in characters), *("".join(m) for m in merges)]
    vocabulary = {word: index for index, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary, merges=merges, end_of_word_suffix="</w>", unk_token="<|endoftext|>", fuse_unk=False
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


def fit_prompt(text: str, limit: int = CONTEXT_LENGTH - 2) -> FittedPrompt:
    """Tokenize and truncate as the reference does: the first 75 tokens are read, the rest is cut.

    Raises:
        InputError: it holds signs that are no text (halves of a surrogate pair, as broken JSON gives them).
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"expected a text, but sign {error.start + 1} of {text[:50]!a} is none", "prompt") from error
    encoding = _tokenizer().encode(text, add_special_tokens=False)
    ids = encoding.ids
    if len(ids) <= limit:
        return FittedPrompt(tuple(ids), 0, text, "")
    # A word may be cut in its middle; the encoder still reads its first tokens.
    end = encoding.offsets[limit - 1][1]
    return FittedPrompt(tuple(ids[:limit]), len(ids) - limit, text[:end], text[end:])


def qualities_in(text: str) -> set[str]:
    """Which of clarity, color, noise and lighting a text says something about."""
    return {name for name, words in QUALITY_WORDS.items() if re.search(rf"\b(?:{words})", text, re.IGNORECASE)}


def prioritise_prompt(text: str, limit: int = CONTEXT_LENGTH - 2) -> FittedPrompt:
    """Like `fit_prompt`, but a text that is too long loses content before it loses one of the four qualities.

    The text is split at punctuation. First come the clauses that name a quality no earlier one named, then
    further clauses about quality, then content, each group in the text's own order; what fits is kept whole.
    """
    whole = fit_prompt(text, limit)
    if not whole.cut:
        return whole
    named: set[str] = set()
    groups: tuple[list[str], list[str], list[str]] = ([], [], [])
    for clause in (part.strip() for part in re.findall(r"[^.,;:!?]+[.,;:!?]*", text)):
        qualities = qualities_in(clause)
        groups[0 if qualities - named else 1 if qualities else 2].append(clause)
        named |= qualities
    kept, left = "", []
    for clause in (clause for group in groups for clause in group if clause):
        longer = f"{kept} {clause}".strip()
        if fit_prompt(longer, limit).cut:
            left.append(clause)
        else:
            kept = longer
    if not kept:  # one clause longer than everything that is read
        return whole
    fitted = fit_prompt(kept, limit)
    rest = " ".join(left)
    return FittedPrompt(fitted.tokens, len(_tokenizer().encode(rest, add_special_tokens=False).ids), kept, rest)


def encode_tokens(texts: list[str]) -> Tensor:
    """Token ids for the text encoder: (B, 77), int64: start, at most 75 tokens, end, padding with 0."""
    rows = []
    for text in texts:
        tokens = [START_TOKEN, *fit_prompt(text).tokens, END_TOKEN]
        rows.append(tokens + [PAD_TOKEN] * (CONTEXT_LENGTH - len(tokens)))
    return torch.tensor(rows, dtype=torch.int64)
