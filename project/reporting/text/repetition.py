"""What a text says twice: lines, documents, and what its test split shares with its training text.

Shape letters: n windows asked about, L characters of a window, m characters of a piece.
"""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from project.data.corpora import Document
from project.reporting.text.characters import code_points

BASE = 0x9E3779B97F4A7C15  # of the hash, odd: 2^64 over the golden ratio
TABLE_BITS = 22  # of the table that most windows are told apart by
Hashes = NDArray[np.uint64]


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


def copied_windows(
    asked: str, starts: NDArray[np.int64], known: Iterable[str], length: int
) -> NDArray[np.bool_]:
    """Return which windows of one text occur, letter for letter, in another, (n,).

    Windows are compared by a 64-bit rolling hash (Karp & Rabin 1987): among 10^4 windows and 10^9
    places about one in a million searches finds a window that is not there.

    Args:
        asked: The text of the windows.
        starts: Their first characters, each with `length` characters from there, (n,).
        known: The other text, in pieces that join without a gap.
        length: L of a window.
    """
    points = code_points(asked)
    windows = [window_hashes(points[start : start + length], length) for start in starts.tolist()]
    hashes = np.concatenate(windows) if windows else np.zeros(0, np.uint64)
    wanted = np.unique(hashes)
    is_found = np.zeros(len(wanted), np.bool_)
    table = np.zeros(1 << TABLE_BITS, np.bool_)
    shift = np.uint64(64 - TABLE_BITS)
    table[wanted >> shift] = True
    before = np.zeros(0, np.uint32)  # the last characters of the piece before
    for text in known:
        points = np.concatenate([before, code_points(text)])
        before = points[max(len(points) - length + 1, 0) :]
        found = window_hashes(points, length)
        found = found[table[found >> shift]]
        is_found |= np.isin(wanted, found)
    return is_found[np.searchsorted(wanted, hashes)]


def window_hashes(points: NDArray[np.uint32], length: int) -> Hashes:
    """Return the hash of each window of `length` code points, uint64 (m - L + 1,).

    The hash of a_0 ... a_{L-1} is the sum of a_i BASE^(L-1-i), modulo 2^64: the hashes of 1, 2, 4,
    ... characters are joined to those of L, in 2 log2 L steps over the text.
    """
    count = len(points) - length + 1
    if count <= 0:
        return np.zeros(0, np.uint64)
    power, width, done = points.astype(np.uint64) + np.uint64(1), 1, 0
    total = np.zeros(count, np.uint64)
    while True:
        if length & width:  # the windows so far, then `width` more characters
            total = total * weight(width) + power[done : done + count]
            done += width
        if done == length:
            return total
        power = power[:-width] * weight(width) + power[width:]
        width *= 2


def weight(width: int) -> np.uint64:
    """Return BASE^width modulo 2^64."""
    return np.uint64(pow(BASE, width, 1 << 64))
