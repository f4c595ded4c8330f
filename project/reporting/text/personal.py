"""Hints of personal data in a text, by patterns, masked wherever they are shown.

Patterns find what is written like an address or a number. They do not know persons: names, places
and stories are missed, and examples in a manual are found.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple


class Hint(NamedTuple):
    """Something that is written like personal data.

    Attributes:
        kind: Of `KINDS`.
        masked: What may be shown of it.
        start, length: Of what was found, in the text, characters.
    """

    kind: str
    masked: str
    start: int
    length: int


def luhn(text: str) -> bool:
    """Return whether the digits of a text have the check digit of payment cards (ISO/IEC 7812)."""
    digits = [int(c) for c in text if c.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    is_valid = (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and is_valid


def iban(text: str) -> bool:
    """Return whether a text has the check digits of an IBAN (ISO 13616)."""
    letters = "".join(text.split())
    if not 15 <= len(letters) <= 34:
        return False
    turned = letters[4:] + letters[:4]
    return int("".join(str(int(c, 36)) for c in turned)) % 97 == 1


def address(text: str) -> bool:
    """Return whether a text is an address of the internet, version 4 or 6."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def telephone(text: str) -> bool:
    return 8 <= sum(c.isdigit() for c in text) <= 15


def mask_mail(text: str) -> str:
    """Return `a***@d***.org` for `ada@difference.org`."""
    name, _, domain = text.partition("@")
    return f"{name[0]}***@{domain[0]}***.{domain.rpartition('.')[2]}"


def mask_number(text: str) -> str:
    """Return the first two characters, and a star for each letter and digit that follows."""
    return text[:2] + re.sub(r"[0-9A-Za-z]", "*", text[2:])


class Kind(NamedTuple):
    title: str
    pattern: re.Pattern[str]
    check: Callable[[str], bool]
    mask: Callable[[str], str]


# In this order: what one has found is not found again as another. Every repetition is bounded and
# none begins within a word, so that a long line takes no longer than a short one for its length.
KINDS = {
    "mail": Kind(
        "e-mail addresses",
        re.compile(
            r"(?<![\w.%+-])[A-Za-z0-9][\w.%+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}\b",
            re.ASCII,
        ),
        lambda text: True,
        mask_mail,
    ),
    "iban": Kind(
        "bank accounts (IBAN with right check digits)",
        re.compile(r"\b[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b", re.ASCII),
        iban,
        mask_number,
    ),
    "card": Kind(
        "numbers like those of payment cards (Luhn)",
        re.compile(r"(?<![\w.+-])[0-9](?:[ -]?[0-9]){12,18}(?![\w-]|\.[0-9])", re.ASCII),
        luhn,
        mask_number,
    ),
    "ip": Kind(
        "internet addresses",
        re.compile(
            r"(?<![\w.:])(?:(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![\w]|\.[0-9])"
            r"|(?:[0-9A-Fa-f]{1,4}:){2,7}(?::|(?::?[0-9A-Fa-f]{1,4}){1,6})(?![\w:]))",
            re.ASCII,
        ),
        address,
        mask_number,
    ),
    "phone": Kind(
        "telephone numbers",
        re.compile(
            r"(?<![\w.+-])(?:\+[1-9](?:[ ()./-]{0,2}[0-9]){7,14}"
            r"|\(?[2-9][0-9]{2}\)?[ .-][0-9]{3}[.-][0-9]{4})(?![\w]|[.-][0-9])",
            re.ASCII,
        ),
        telephone,
        mask_number,
    ),
}


def hints(text: str) -> Iterator[Hint]:
    """Yield the hints of each kind in turn, in the order of the text."""
    taken: set[int] = set()  # characters that begin or lie within a hint
    for name, kind in KINDS.items():
        for match in kind.pattern.finditer(text):
            if match.start() in taken or not kind.check(match[0]):
                continue
            taken.update(range(match.start(), match.end()))
            yield Hint(name, kind.mask(match[0]), match.start(), len(match[0]))
