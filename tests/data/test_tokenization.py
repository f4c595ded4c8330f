"""Tokenizers: text comes back as it was, whatever it holds."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from project.data.tokenization import (
    BPETokenizer,
    ByteTokenizer,
    CharTokenizer,
    Tokenizer,
    byte_of_character,
    lines,
    stream_text,
)

ENGLISH = "The quick brown fox jumps over the lazy dog.\nThe dog sleeps; the fox does not.\n" * 20
HARD = (
    "a\r\nb\rc\n\n  \t x   y  \u00e9 e\u0301 \U0001f468\u200d\U0001f469\u200d\U0001f466"
    " \ufffd <|endoftext|> [UNK] \u2028 \x85 \x00 \u4f60\u597d"
)


def fitted(name: str, text: str) -> Tokenizer:
    tokenizer: Tokenizer = {
        "bytes": ByteTokenizer(),
        "char": CharTokenizer(),
        "bpe": BPETokenizer(300),
    }[name]
    tokenizer.fit([text if name == "char" else ENGLISH])
    return tokenizer


every_tokenizer = pytest.mark.parametrize("name", ["bytes", "char", "bpe"])
BPE = fitted("bpe", ENGLISH)


@every_tokenizer
@settings(deadline=None, max_examples=60)
@given(text=st.text(max_size=60))
@example(text=HARD)
@example(text="")
def test_text_comes_back_as_it_was(name, text) -> None:
    tokenizer = BPE if name == "bpe" else fitted(name, text)
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens.tolist()) == text
    assert "".join(stream_text(tokenizer, tokens.tolist())) == text
    assert tokenizer.unknown(text) == ""


@every_tokenizer
def test_lines_are_encoded_alone_as_within_the_text(name) -> None:
    tokenizer = fitted(name, HARD)
    together = tokenizer.encode(HARD)
    apart = [tokenizer.encode(line) for line in lines(HARD)]
    assert np.array_equal(np.concatenate(apart), together)


@every_tokenizer
def test_state_makes_the_same_tokenizer(name) -> None:
    import json

    tokenizer = fitted(name, HARD)
    twin = type(tokenizer)(**tokenizer.options())
    twin.load_state_dict(json.loads(json.dumps(tokenizer.state_dict())))
    assert twin.vocabulary == tokenizer.vocabulary
    assert np.array_equal(twin.encode(HARD), tokenizer.encode(HARD))


@every_tokenizer
def test_byte_counts_add_up_to_the_bytes_of_the_text(name) -> None:
    tokenizer = fitted(name, HARD)
    counts = np.array(tokenizer.byte_counts())
    assert counts[tokenizer.encode(HARD)].sum() == len(HARD.encode())


def test_characters_not_trained_on_are_token_0_and_count_as_no_bytes() -> None:
    tokenizer = fitted("char", "abc")
    assert tokenizer.encode("axc\U0001f600").tolist() == [1, 0, 3, 0]
    assert tokenizer.unknown("axcx\U0001f600") == "x\U0001f600"
    assert tokenizer.byte_counts() == [0, 1, 1, 1]
    assert tokenizer.decode([1, 0]) == "a\ufffd"


def test_bpe_joins_what_is_frequent_and_stays_within_its_size() -> None:
    tokens = BPE.encode("The quick brown fox\n")
    assert len(tokens) < 10
    assert len(BPE.vocabulary) <= 300
    assert len(set(BPE.vocabulary)) == len(BPE.vocabulary)
    assert {bytes([value]) for value in range(256)} <= set(BPE.vocabulary)


def test_bpe_below_a_byte_is_refused() -> None:
    with pytest.raises(ValueError, match="vocab_size 255"):
        BPETokenizer(255)


def test_table_of_bytes_is_the_one_of_the_library() -> None:
    table = byte_of_character()
    assert set(table) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(table.values()) == list(range(256))
    split = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str("\u00e9 \n")
    written = "".join(piece for piece, _ in split)
    assert bytes(table[character] for character in written) == "\u00e9 \n".encode()


def test_streamed_text_waits_for_whole_characters() -> None:
    tokenizer = ByteTokenizer()
    pieces = list(stream_text(tokenizer, "a\U0001f600b".encode()))
    assert pieces == ["a", "\U0001f600", "b"]
    assert list(stream_text(tokenizer, [0xF0, 0x9F])) == ["\ufffd"]
