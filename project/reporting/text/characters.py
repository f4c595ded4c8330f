"""Which characters a text has, and which of them a reader would not see."""

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

CODE_POINTS = 0x110000
FORMS: tuple[Literal["NFC", "NFD", "NFKC"], ...] = ("NFC", "NFD", "NFKC")
CATEGORIES = {
    "L": "letters",
    "M": "marks on letters",
    "N": "numbers",
    "P": "punctuation",
    "S": "symbols",
    "Z": "spaces",
    "C": "newlines, control and format",
}
# Unicode Standard, section 23.2 and UAX 9: they change the order in which text is shown.
BIDIRECTIONAL = {0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)}
# Letters and marks that show nothing; the other invisible ones are of the category Cf.
FILLERS = {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0}
KINDS = {
    "control": "control characters but tab and newline",
    "bidirectional": "bidirectional controls, which reorder what is shown",
    "invisible": "other invisible characters, such as zero-width spaces",
    "private": "private use, of no common meaning",
    "unassigned": "code points that are no character",
    "replacement": "U+FFFD, which stands for what was lost or is unknown",
    "invalid": "bytes that are not UTF-8",
}


def character_counts(texts: Iterable[str]) -> NDArray[np.int64]:
    """Return how often each code point occurs, int64 (0x110000,)."""
    counts = np.zeros(CODE_POINTS, np.int64)
    for text in texts:
        # Lone surrogates are counted too.
        found = np.bincount(np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32))
        counts[: len(found)] += found
    return counts


def kind_of(point: int) -> str:
    """Return which of `KINDS` a code point is of; nothing for an ordinary one."""
    category = unicodedata.category(chr(point))
    if point in BIDIRECTIONAL:
        return "bidirectional"
    if category == "Cf" or point in FILLERS:
        return "invisible"
    if point == 0xFFFD:
        return "replacement"
    if category == "Cc":
        return "" if point in (0x09, 0x0A) else "control"
    return {"Co": "private", "Cn": "unassigned", "Cs": "invalid"}.get(category, "")


def by_kind(counts: NDArray[np.int64]) -> Counter[str]:
    """Count the characters of each of `KINDS`."""
    return grouped(counts, kind_of)


def by_category(counts: NDArray[np.int64]) -> Counter[str]:
    """Count the characters of each of `CATEGORIES`, by its name."""
    return grouped(counts, lambda point: CATEGORIES[unicodedata.category(chr(point))[0]])


def by_script(counts: NDArray[np.int64]) -> Counter[str]:
    """Count the letters of each script, by the first word of their Unicode names.

    Python's tables do not hold the scripts themselves; for letters the names begin with them.
    """

    def script(point: int) -> str:
        character = chr(point)
        if unicodedata.category(character)[0] != "L":
            return ""
        return unicodedata.name(character, "unnamed").split()[0].capitalize()

    return grouped(counts, script)


def grouped(counts: NDArray[np.int64], group_of: Callable[[int], str]) -> Counter[str]:
    found: Counter[str] = Counter()
    for point in np.flatnonzero(counts).tolist():
        if group := group_of(point):
            found[group] += int(counts[point])
    return found


def lines_not_in(texts: Iterable[str]) -> dict[str, int]:
    """Return how many lines each normal form would change (Unicode Standard, UAX 15)."""
    changed: dict[str, int] = dict.fromkeys(FORMS, 0)
    for text in texts:
        for line in text.split("\n"):
            if not line.isascii():
                for form in FORMS:
                    changed[form] += not unicodedata.is_normalized(form, line)
    return changed
