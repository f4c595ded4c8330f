"""From text to token numbers and back: bytes, characters, or byte-pair encoding.

A tokenizer is its vocabulary: the bytes that each token stands for. Decoding joins them.

Shape letters: V vocabulary, n tokens of a text.
"""

import codecs
import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.integer[Any]]
UNKNOWN = "\ufffd"  # what stands for a character that is not in the vocabulary


class Tokenizer(ABC):
    """Turns text into tokens; keeps each argument of its constructor as an attribute.

    Attributes:
        vocabulary: The bytes of each token; empty before `fit` for those that learn theirs.
    """

    vocabulary: list[bytes]

    def fit(self, texts: Iterable[str]) -> None:  # noqa: B027 - bytes need none
        """Learn the vocabulary from the training text, given in pieces that end with a line."""

    @abstractmethod
    def encode(self, text: str) -> Tokens:
        """Return the tokens of `text`, (n,), each in [0, V).

        Tokens never reach over the end of a line, so a text may be encoded in whole lines.
        """

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens; bytes that are not UTF-8 become U+FFFD."""
        return b"".join(self.vocabulary[token] for token in tokens).decode(errors="replace")

    def unknown(self, text: str) -> str:
        """Return the characters of `text` that `encode` cannot keep, once each, in order."""
        return ""

    def byte_counts(self) -> list[int]:
        """Return the bytes of each token: 0 for one that says nothing of what it stands for."""
        return [len(token) for token in self.vocabulary]

    def options(self) -> dict[str, Any]:
        """Return the constructor's arguments: they decide, with the text, what `fit` learns."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def state_dict(self) -> dict[str, Any]:
        """Return what `fit` learned, in numbers and strings."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 - bytes need none
        """Become the tokenizer that returned `state`."""


class ByteTokenizer(Tokenizer):
    """Every byte of the UTF-8 text is a token: 256 of them, nothing to learn, nothing unknown."""

    def __init__(self) -> None:
        self.vocabulary = [bytes([value]) for value in range(256)]

    def encode(self, text: str) -> Tokens:
        return np.frombuffer(text.encode(), np.uint8)


class CharTokenizer(Tokenizer):
    """Every character of the training text is a token, in the order of code points.

    Token 0 stands for all others; it occurs only in texts that were not trained on, and counts
    as no bytes, so that not knowing a character never makes bits per byte better. It is shown as
    U+FFFD, which has a token of its own where it is in the training text.
    """

    def __init__(self) -> None:
        self.characters = ""
        self.vocabulary = []

    def fit(self, texts: Iterable[str]) -> None:
        found: set[str] = set()
        for text in texts:
            found.update(text)
        self.load_state_dict({"characters": "".join(sorted(found))})

    def encode(self, text: str) -> Tokens:
        points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        return self.table[np.minimum(points, len(self.table) - 1)]

    def unknown(self, text: str) -> str:
        return "".join(c for c in dict.fromkeys(text) if c not in self.characters)

    def byte_counts(self) -> list[int]:
        return [0, *super().byte_counts()[1:]]

    def state_dict(self) -> dict[str, Any]:
        return {"characters": self.characters}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.characters = state["characters"]
        self.vocabulary = [c.encode() for c in (UNKNOWN, *self.characters)]
        points = [ord(c) for c in self.characters]
        self.table = np.zeros(max(points, default=0) + 2, np.int64)  # its last entry is unknown
        self.table[points] = np.arange(1, len(points) + 1)


class BPETokenizer(Tokenizer):
    """Byte-level byte-pair encoding, learnt from the training text: nothing is unknown.

    Source: Sennrich et al. 2016 (arXiv:1508.07909) on bytes as in GPT-2 (Radford et al. 2019), by
    Hugging Face `tokenizers`, without normalisation or special tokens, line by line.

    Args:
        vocab_size: V, at least 256. A small text may give fewer.

    Raises:
        ValueError: If `vocab_size` is below 256.
    """

    def __init__(self, vocab_size: int = 1024) -> None:
        if vocab_size < 256:
            raise ValueError(
                f"vocab_size {vocab_size} of BPETokenizer must be at least 256, a byte"
            )
        self.vocab_size = vocab_size
        self.vocabulary = []

    def fit(self, texts: Iterable[str]) -> None:
        import tokenizers
        from tokenizers import models, pre_tokenizers, trainers

        bpe = tokenizers.Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        bpe.train_from_iterator((line for text in texts for line in lines(text)), trainer)
        self.load_state_dict({"tokenizer": bpe.to_str()})

    def encode(self, text: str) -> Tokens:
        encoded = self.bpe.encode_batch_fast(lines(text))
        return np.array([token for line in encoded for token in line.ids], np.int64)

    def state_dict(self) -> dict[str, Any]:
        return {"tokenizer": self.bpe.to_str()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        import tokenizers

        self.bpe = tokenizers.Tokenizer.from_str(state["tokenizer"])
        self.bpe.encode_special_tokens = True  # text cannot name one
        characters = byte_of_character()
        tokens = (self.bpe.id_to_token(i) for i in range(self.bpe.get_vocab_size()))
        self.vocabulary = [bytes(characters[c] for c in token or "") for token in tokens]
        assert all(self.vocabulary), "the numbers of the tokens have a gap"


def lines(text: str) -> list[str]:
    """Split after every newline and nowhere else."""
    *whole, rest = text.split("\n")
    return [f"{line}\n" for line in whole] + ([rest] if rest else [])


def byte_of_character() -> dict[str, int]:
    """Return which byte each character of a byte-level vocabulary stands for (GPT-2's table).

    Printable bytes stand for themselves; the others took the code points from 256 on, in order.
    """
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [value for value in range(256) if value not in printable]
    table = {chr(value): value for value in printable}
    return table | {chr(256 + i): value for i, value in enumerate(others)}


def stream_text(tokenizer: Tokenizer, tokens: Iterable[int]) -> Iterator[str]:
    """Yield text as tokens come in, a character only when all of its bytes are there."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for token in tokens:
        if text := decoder.decode(tokenizer.vocabulary[token]):
            yield text
    if rest := decoder.decode(b"", final=True):
        yield rest
