"""What a language model is asked about a picture, and its answer made into a prompt."""

from __future__ import annotations

import re

MAX_WORDS = 60
"""Words asked of a language model, as in the reference."""


def request_for(instruction: str, max_words: int) -> str:
    """What a language model is asked: the instruction, and how long the answer may be."""
    instruction = instruction.strip() or INSTRUCTION
    return f"{instruction} Answer in at most {max_words} words." if max_words else instruction


def tidy(answer: str, max_words: int) -> str:
    """A model's answer as a prompt: one line, without its thoughts or markup, at most `max_words` words (0: all).

    A longer answer ends with its last whole sentence, if at least half of the words are kept.
    """
    answer = re.sub(r"<think>.*?(</think>|$)", " ", answer, flags=re.DOTALL)
    answer = re.sub(r"[*#`]+", "", answer)
    words = "".join(c if c.isprintable() else " " for c in answer).split()
    if max_words and len(words) > max_words:
        words = words[:max_words]
        ends = [n for n, word in enumerate(words, 1) if word[-1] in ".!?"]
        if ends and ends[-1] * 2 >= max_words:
            words = words[: ends[-1]]
    return " ".join(words)


INSTRUCTION = (
    "Please describe this low-resolution image, evaluating its quality based on clarity, color, noise, and lighting."
)
"""The paper's instruction to its captioner, word for word."""
