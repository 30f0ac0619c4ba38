"""CLIP's tokenizer: known ids, 75 tokens at most, and the cut shown to the user."""

from __future__ import annotations

import pytest

from qusr_train.model.tokenizer import (
    END_TOKEN,
    PAD_TOKEN,
    START_TOKEN,
    encode_tokens,
    fit_prompt,
    prioritise_prompt,
    qualities_in,
)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("a photo", (320, 1125)),
        ("hello world!", (3306, 1002, 256)),
        ("it's", (585, 568)),
        ("1 2", (272, 273)),
        ("123", (272, 273, 274)),  # every digit is its own word
        ("é", (4166,)),
        ("\U0001f642", (14860,)),
        ("\u65e5\u672c\u8a9e", (39121, 44353, 34002, 508)),
    ],
)
def test_known_ids(text: str, tokens: tuple[int, ...]) -> None:
    assert fit_prompt(text).tokens == tokens


def test_case_and_whitespace_do_not_matter() -> None:
    assert fit_prompt("  A\tPhoto \n").tokens == fit_prompt("a photo").tokens
    assert fit_prompt("E\u0301").tokens == fit_prompt("é").tokens  # composed and decomposed accents


def test_75_words_fit() -> None:
    fitted = fit_prompt("word " * 75)
    assert len(fitted.tokens) == 75
    assert (fitted.cut, fitted.kept_text, fitted.cut_text) == (0, "word " * 75, "")


def test_word_76_is_cut_and_shown() -> None:
    fitted = fit_prompt("word " * 75 + "lost, too")
    assert len(fitted.tokens) == 75
    assert fitted.cut == 3
    assert fitted.kept_text == ("word " * 75).strip()
    assert fitted.cut_text == " lost, too"


def test_a_long_word_is_cut_in_its_middle() -> None:
    text = "supercalifragilistic" * 40
    fitted = fit_prompt(text)
    assert len(fitted.tokens) == 75
    assert fitted.cut > 0
    assert fitted.kept_text + fitted.cut_text == text


def test_smaller_limit() -> None:
    fitted = fit_prompt("a photo of a cat", limit=2)
    assert (fitted.tokens, fitted.cut, fitted.kept_text) == ((320, 1125), 3, "a photo")


@pytest.mark.parametrize("text", ["", "   ", "\n\t"])
def test_nothing_is_no_token(text: str) -> None:
    assert fit_prompt(text).tokens == ()
    assert encode_tokens([text])[0, :3].tolist() == [START_TOKEN, END_TOKEN, PAD_TOKEN]


@pytest.mark.parametrize(
    "text", ["a\x00b", "<|endoftext|>", "\u200d\ufe0f", "\u05e9\u05dc\u05d5\u05dd", "x²½", "\U0001f469\u200d\U0001f680"]
)
def test_odd_unicode_becomes_ordinary_tokens(text: str) -> None:
    tokens = fit_prompt(text).tokens
    assert len(tokens) > 0
    assert all(0 <= token < START_TOKEN for token in tokens)


def test_rows_start_end_and_pad_with_zero() -> None:
    row = encode_tokens(["a photo"])[0].tolist()
    assert row == [49406, 320, 1125, 49407] + [0] * 73


def test_long_rows_still_end() -> None:
    rows = encode_tokens(["word " * 200, "a photo", ""])
    assert rows.shape == (3, 77)
    assert rows[0, 0] == START_TOKEN
    assert rows[0, 76] == END_TOKEN
    assert len(set(rows[0, 1:76].tolist())) == 1
    assert (rows == END_TOKEN).sum(1).tolist() == [1, 1, 1]


CONTENT = "A cat sits on a wall beside a row of old houses, with trees behind it and a red car in the street, "


def test_prioritise_keeps_the_qualities_and_cuts_content() -> None:
    text = CONTENT * 4 + "the image is blurry, the colors are muted. There is strong noise, and the lighting is dim."
    plain, fitted = fit_prompt(text), prioritise_prompt(text)
    assert qualities_in(plain.kept_text) == set()
    assert qualities_in(fitted.kept_text) == {"clarity", "color", "noise", "lighting"}
    assert fitted.kept_text.startswith("the image is blurry, the colors are muted. There is strong noise,")
    assert len(fitted.tokens) <= 75
    assert fitted.tokens == fit_prompt(fitted.kept_text).tokens
    assert fitted.cut > 0
    assert sorted((fitted.kept_text + " " + fitted.cut_text).split()) == sorted(text.split()), "a word was lost"


def test_prioritise_leaves_alone_what_fits_or_cannot_be_split() -> None:
    assert prioritise_prompt("a cat, very blurry") == fit_prompt("a cat, very blurry")
    assert prioritise_prompt("word " * 100) == fit_prompt("word " * 100)
    assert prioritise_prompt("") == fit_prompt("")


def test_every_quality_comes_before_any_is_said_twice() -> None:
    text = "blurry, " * 40 + "noisy, " * 5 + "dark, muted colors."
    assert prioritise_prompt(text).kept_text.startswith("blurry, noisy, dark, muted colors.")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a light house", {"lighting"}),
        ("a delightful noiseless scene", {"noise"}),
        ("Low-resolution and GRAINY", {"clarity", "noise"}),
        ("an unlit room", set()),
    ],
)
def test_qualities_are_known_by_the_beginnings_of_words(text: str, found: set[str]) -> None:
    assert qualities_in(text) == found
