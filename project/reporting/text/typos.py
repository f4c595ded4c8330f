"""Mistakes of typing in a text, letter by letter (as in Belinkov & Bisk 2018, arXiv:1711.02173)."""

from collections.abc import Callable

import torch
from torch import Generator

KINDS = {
    "substitution": "wrong letters",
    "deletion": "letters left out",
    "insertion": "letters put in",
    "transposition": "letters swapped",
    "case": "letters in the other case",
}
ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")  # of the keys of a keyboard


def neighbours() -> dict[str, str]:
    """Return the letters whose keys touch that of each small letter (QWERTY).

    Each row stands half a key to the right of the one above.
    """
    found: dict[str, str] = {}
    for row, keys in enumerate(ROWS):
        for column, key in enumerate(keys):
            near = ((0, -1), (0, 1), (-1, 0), (-1, 1), (1, -1), (1, 0))
            places = [(row + down, column + right) for down, right in near]
            found[key] = "".join(
                ROWS[r][c] for r, c in places if 0 <= r < len(ROWS) and 0 <= c < len(ROWS[r])
            )
    return found


NEIGHBOURS = neighbours()


def typed(
    text: str,
    kind: str,
    rate: float,
    generator: Generator,
    is_known: Callable[[str], bool] = lambda letter: True,
) -> str:
    """Return `text` as it is typed with mistakes; everything but letters is left alone.

    Args:
        kind: One of `KINDS`: a key beside the right one (or any letter of the text, where the
            letter is on no key), a letter left out, a neighbouring key's letter put behind a
            letter, two letters in the wrong order, or the other case.
        rate: Probability of a mistake at each letter where this kind is possible, in [0, 1].
        is_known: Letters that may be put in; for a tokenizer that does not know all.

    Raises:
        ValueError: If there is no such kind, or the rate is out of range.
    """
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} of typos is not one of {', '.join(KINDS)}")
    if not 0 <= rate <= 1:
        raise ValueError(f"rate {rate} of typos must lie in [0, 1]")
    letters = sorted({c for c in text if c.isalpha() and is_known(c)})
    draws = torch.rand(len(text), 2, generator=generator).tolist()
    written: list[str] = []
    swapped = False  # with the letter before
    for i, (letter, (chance, which)) in enumerate(zip(text, draws, strict=True)):
        following = text[i + 1 : i + 2]
        if swapped:
            swapped = False
            continue
        if not letter.isalpha() or chance >= rate:
            written.append(letter)
        elif kind == "deletion":
            continue
        elif kind == "transposition":
            swapped = following.isalpha() and following != letter
            written.append(following + letter if swapped else letter)
        elif kind == "case":
            other = letter.swapcase()
            written.append(other if len(other) == 1 and is_known(other) else letter)
        else:
            wrong = wrong_letter(letter, letters, which, is_known)
            written.append(letter + wrong if kind == "insertion" else wrong)
    return "".join(written)


def wrong_letter(
    letter: str, letters: list[str], which: float, is_known: Callable[[str], bool]
) -> str:
    """Return another letter; itself where no other is known."""
    near = NEIGHBOURS.get(letter.lower(), "")
    near = near.upper() if letter.isupper() else near
    choices = [c for c in near if is_known(c)] or [c for c in letters if c != letter]
    return choices[int(which * len(choices))] if choices else letter
