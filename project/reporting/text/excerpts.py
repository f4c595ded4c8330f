"""The text behind the tokens of a split, read in pieces so that it may be larger than memory.

Shape letters: n tokens of a split.
"""

import codecs
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from project.data.tokenization import ByteTokenizer, Tokenizer

PIECE = 1 << 20  # tokens
EXCERPTS = 64  # that stand for a text which is too long to be read


def pieces(tokens: NDArray[Any], tokenizer: Tokenizer) -> Iterator[str]:
    """Yield the text of tokens (n,), every character once; cut anywhere, also within a line.

    A byte that is not of UTF-8 becomes a lone surrogate (U+DC80 to U+DCFF), so it can be counted.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    for piece in byte_pieces(tokens, tokenizer):
        if text := decoder.decode(piece.tobytes()):
            yield text
    if rest := decoder.decode(b"", final=True):
        yield rest


def byte_pieces(tokens: NDArray[Any], tokenizer: Tokenizer) -> Iterator[NDArray[np.uint8]]:
    """Yield the bytes of tokens (n,), every one once."""
    for start in range(0, len(tokens), PIECE):
        yield np.frombuffer(as_bytes(tokens[start : start + PIECE], tokenizer), np.uint8)


def excerpts(tokens: NDArray[Any], tokenizer: Tokenizer, most: int) -> list[str]:
    """Return the whole text of tokens (n,) where n is at most `most`, else spread excerpts of it.

    Excerpts have whole lines, where there are lines, and together about `most` tokens.
    """
    if len(tokens) <= most:
        return ["".join(pieces(tokens, tokenizer))]
    length = most // EXCERPTS
    texts = []
    for start in np.linspace(0, len(tokens) - length, EXCERPTS).astype(int).tolist():
        content = as_bytes(tokens[start : start + length], tokenizer)
        text = content.decode("utf-8", "ignore")  # the ends may lie within a character
        first, last = text.find("\n") + 1, text.rfind("\n") + 1
        texts.append(text[first:last] if first < last else text)
    return texts


def as_bytes(tokens: NDArray[Any], tokenizer: Tokenizer) -> bytes:
    """Return the bytes of tokens (n,)."""
    if isinstance(tokenizer, ByteTokenizer):
        return tokens.astype(np.uint8).tobytes()
    vocabulary = tokenizer.vocabulary
    return b"".join([vocabulary[token] for token in tokens.tolist()])
