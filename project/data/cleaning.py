"""From the bytes of a document to clean text: in blocks, as it may be larger than the memory."""

import codecs
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO, IncrementalNewlineDecoder, TextIOWrapper
from typing import Literal

from project.data.corpora import Document

BLOCK_BYTES = 1 << 20
MAX_LINE_BYTES = 1 << 20  # a longer line is cleaned and encoded in pieces
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and newline
BYTE_ORDER_MARK = "\ufeff"


@dataclass(frozen=True)
class Cleaning:
    """What is done to a text before it is split; newlines always become a single `\\n`.

    Args:
        control_characters: Keep those besides tab and newline; else they are dropped.
        lower_case: Turn every letter into its small one.
        normal_form: Unicode normal form, such as NFC; null leaves the text as it is.
    """

    control_characters: bool = False
    lower_case: bool = False
    normal_form: Literal["NFC", "NFD", "NFKC", "NFKD"] | None = None


def decoded(
    document: Document,
    encoding: str,
    progress: Callable[[str, int], None] = lambda stage, num_bytes: None,
) -> Iterator[tuple[str, bool]]:
    """Yield the text of a document in blocks, each with whether it is the last.

    Raises:
        ValueError: If a byte does not belong there, with its offset, or there is no such encoding.
    """
    try:
        TextIOWrapper(BytesIO(), encoding)  # refuses codecs that are not of text, such as hex
        decoder = codecs.getincrementaldecoder(encoding)()
    except LookupError as error:
        raise ValueError(
            f"there is no encoding {encoding!r} of text; --data.corpus.encoding takes Python's "
            "names, such as utf-8, latin-1, cp1252, utf-16"
        ) from error
    other = "utf-16-le" if codecs.lookup(encoding).name == "utf-16" else "cp1252"
    done = 0  # bytes before the block
    with document.open() as file:
        while True:
            block = file.read(BLOCK_BYTES)
            held_back = len(decoder.getstate()[0])  # the first bytes of a character
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                offset = done - held_back + error.start
                raise ValueError(
                    f"{document.name!r} is not {encoding}: byte "
                    f"0x{error.object[error.start]:02x} at offset {offset:,} ({error.reason}); "
                    f"name its encoding, for example --data.corpus.encoding {other}, or mend the "
                    "file"
                ) from error
            except UnicodeError as error:  # before 3.13: UTF-16 without the mark of its order
                raise ValueError(
                    f"{document.name!r} is not {encoding} ({error}); name its encoding, for "
                    f"example --data.corpus.encoding {other}"
                ) from error
            done += len(block)
            progress("clean", len(block))
            yield text, not block
            if not block:
                return


def no_counts() -> dict[str, int]:
    """Return the counts that `clean` adds to, all 0."""
    names = ("read", "kept", "newlines_merged", "control_dropped", "marks_dropped")
    return dict.fromkeys(names, 0)


def clean(
    blocks: Iterable[tuple[str, bool]], cleaning: Cleaning, counts: dict[str, int]
) -> Iterator[str]:
    """Yield a document cleaned, as other blocks, and add to the counts of characters."""
    newlines = IncrementalNewlineDecoder(None, translate=True)
    is_start = True
    rest = ""  # what a normal form or a small letter may still join to what follows
    for text, is_last in blocks:
        counts["read"] += len(text)
        if is_start and text:
            is_start = False
            counts["marks_dropped"] += text.startswith(BYTE_ORDER_MARK)
            text = text.removeprefix(BYTE_ORDER_MARK)
        before = len(text)
        text = newlines.decode(text, final=is_last)
        counts["newlines_merged"] += before - len(text)
        if not cleaning.control_characters:
            text, dropped = CONTROL.subn("", text)
            counts["control_dropped"] += dropped
        if cleaning.lower_case or cleaning.normal_form:
            text = rest + text
            cut = len(text) if is_last else max(text.rfind(" "), text.rfind("\n"), 0)
            if len(text) - cut > MAX_LINE_BYTES:  # nothing joins what is before an ASCII letter
                cut = next((i for i in reversed(range(len(text))) if text[i].isascii()), len(text))
            text, rest = text[:cut], text[cut:]
            if cleaning.normal_form:
                text = unicodedata.normalize(cleaning.normal_form, text)
            if cleaning.lower_case:
                text = text.lower()
        counts["kept"] += len(text)
        yield text
