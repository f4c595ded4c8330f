"""Cleaning a text: what is dropped, joined and counted, whatever the blocks it comes in."""

import re
import unicodedata

from hypothesis import example, given, settings
from hypothesis import strategies as st

from project.data import cleaning
from project.data.cleaning import Cleaning, clean, no_counts


def cleaned(text: str, block_size: int, options: Cleaning) -> tuple[str, dict[str, int]]:
    counts = no_counts()
    blocks = [(text[i : i + block_size], False) for i in range(0, len(text), block_size)]
    return "".join(clean([*blocks, ("", True)], options, counts)), counts


@settings(deadline=None)
@given(
    text=st.text(st.sampled_from("ab \n\r\t\x00\x85\ufeff\u0301e\u00c9\u1e9b\u0323\u03a3")),
    block_size=st.integers(1, 5),
    lower_case=st.booleans(),
    normal_form=st.sampled_from([None, "NFC", "NFD", "NFKC"]),
)
@example(text="a\r\nb\r\rc\r", block_size=2, lower_case=False, normal_form=None)
@example(text="\ufeff\ufeffa", block_size=1, lower_case=False, normal_form=None)
@example(text="x e\u0301 \u03a3\u03a3 y", block_size=1, lower_case=True, normal_form="NFC")
def test_cleaning_does_not_depend_on_the_blocks(text, block_size, lower_case, normal_form) -> None:
    options = Cleaning(lower_case=lower_case, normal_form=normal_form)
    result, counts = cleaned(text, block_size, options)
    assert (result, counts) == cleaned(text, 1000, options)
    expected = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    expected = re.sub("[\x00\x85]", "", expected)
    expected = unicodedata.normalize(normal_form, expected) if normal_form else expected
    assert result == (expected.lower() if lower_case else expected)
    assert counts["read"] == len(text)
    assert counts["kept"] == len(result)
    if not (lower_case or normal_form):
        dropped = counts["newlines_merged"] + counts["control_dropped"] + counts["marks_dropped"]
        assert counts["kept"] + dropped == counts["read"]


def test_cleaning_a_long_text_without_spaces_keeps_little_in_memory(monkeypatch) -> None:
    monkeypatch.setattr(cleaning, "MAX_LINE_BYTES", 100)
    text = "ACGTE\u0301" * 1000
    counts, longest, result = no_counts(), 0, []
    blocks = [(text[i : i + 50], i + 50 >= len(text)) for i in range(0, len(text), 50)]
    for piece in clean(blocks, Cleaning(lower_case=True, normal_form="NFC"), counts):
        longest = max(longest, len(piece))
        result.append(piece)
    assert "".join(result) == unicodedata.normalize("NFC", text).lower()
    assert longest < 200


def test_control_characters_can_be_kept() -> None:
    assert cleaned("a\x00\x85\tb", 10, Cleaning(control_characters=True))[0] == "a\x00\x85\tb"
