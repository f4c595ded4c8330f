"""What a text says twice: lines, documents, and what its test split shares with its training text.

Shape letters: n bytes of a split.
"""

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from project.data.corpora import Document
from project.reporting.text.excerpts import byte_pieces
from project.reporting.text.memorisation import copied_bytes
from project.reporting.text.opened import Text

SPAN = 50  # bytes that are not alike by chance
MOST_SEARCHED = 100_000_000  # training tokens, the last ones


class Lines(NamedTuple):
    """Lines that are not blank, without the space around them.

    Attributes:
        total: How many there are.
        repeats: That occurred before.
        most: The most frequent ones and how often they occur, those that occur once left out.
    """

    total: int
    repeats: int
    most: list[tuple[str, int]]


def repeated_lines(texts: Iterable[str], shown: int = 5) -> Lines:
    """Count the lines that are said again."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(line.strip() for line in text.split("\n"))
    counts.pop("", None)
    total = counts.total()
    most = [(line, count) for line, count in counts.most_common(shown) if count > 1]
    return Lines(total, total - len(counts), most)


def same_documents(documents: dict[str, list[Document]]) -> list[list[tuple[str, str]]]:
    """Return the groups of documents with the same bytes, as (split, name), by SHA-256."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for split, part in documents.items():
        for document in part:
            groups.setdefault(document.sha256(), []).append((split, document.name))
    return [group for group in groups.values() if len(group) > 1]


@lru_cache(maxsize=1)  # the data are judged by it, and the loss is split by it
def copied_from_training(text: Text, split: str) -> NDArray[np.bool_]:
    """Return whether each byte of a split lies in a span that the training text has too, (n,).

    The span is of `SPAN` bytes, letter for letter, in the last `MOST_SEARCHED` training tokens.
    """
    asked = np.concatenate(list(byte_pieces(text.tokens(split), text.tokenizer)))
    known = byte_pieces(text.tokens("train")[-MOST_SEARCHED:], text.tokenizer)
    (copied,) = copied_bytes(known, [asked], SPAN)
    return copied
