"""What is said of a text: what is planted is found, what is not there is not."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import text_subject

from project.data.cleaning import Cleaning
from project.data.corpora import Corpus, Document, PythonDocs
from project.data.text import TextData
from project.data.tokenization import BPETokenizer, ByteTokenizer, CharTokenizer, Tokenizer
from project.reporting.findings import Section, Table
from project.reporting.subject import Subject
from project.reporting.text import excerpts as reading
from project.reporting.text.characters import (
    KINDS,
    by_category,
    by_kind,
    by_script,
    character_counts,
    lines_not_in,
)
from project.reporting.text.data import section, shortened
from project.reporting.text.excerpts import excerpts, pieces
from project.reporting.text.personal import hints
from project.reporting.text.repetition import repeated_lines, same_documents

SENTENCE = "a model reads the text of a book and learns which word comes after another"


def prose(seed: int, lines: int = 60) -> str:
    """Return lines of random words: two of them share hardly a window."""
    numbers = np.random.default_rng(seed)
    rows = [
        " ".join(numbers.choice(SENTENCE.split(), 9)) + f" {numbers.integers(10**9)}"
        for _ in range(lines)
    ]
    return "\n".join(rows) + "\n"


class Given(Corpus):
    """Texts for each split, in memory."""

    def __init__(
        self, train: list[str], val: list[str] | None = None, test: list[str] | None = None
    ) -> None:
        self.train, self.val, self.test = train, val, test

    def documents(self, root: Path) -> dict[str, list[Document]]:
        return {
            split: [Document(f"{split}{i}.txt", text.encode()) for i, text in enumerate(part)]
            for split in ("train", "val", "test")
            if (part := getattr(self, split)) is not None
        }


def subject_of(
    corpus: Corpus, folder: Path, tokenizer: Tokenizer | None = None, n: int = 1000, **options
) -> Subject:
    data = TextData(corpus, tokenizer, context_length=8, cache_dir=str(folder), **options)
    data.prepare_data()
    data.setup("test")
    return text_subject(torch.nn.ReLU(), data, n=n)


def value(found: Section, key: str) -> float:
    measure = found.measure(key)
    assert measure is not None
    assert measure.value is not None
    return measure.value


@pytest.mark.parametrize("kind", [ByteTokenizer, CharTokenizer, lambda: BPETokenizer(300)])
@pytest.mark.parametrize("piece", [1, 7, 10_000])
def test_pieces_join_to_the_text_wherever_they_are_cut(monkeypatch, kind, piece) -> None:
    monkeypatch.setattr(reading, "PIECE", piece)
    text = "Grün 漢字 🙂\n" * 5 + prose(0, 3)
    tokenizer = kind()
    tokenizer.fit([text])
    assert "".join(pieces(tokenizer.encode(text), tokenizer)) == text


def test_a_byte_that_is_not_utf8_is_kept_and_counted() -> None:
    tokens = np.frombuffer("grün".encode() + b"\xff" + b"end\xc3", np.uint8)
    text = list(pieces(tokens, ByteTokenizer()))
    assert by_kind(character_counts(text)) == {"invalid": 2}


def test_excerpts_are_whole_lines_spread_over_the_text(monkeypatch) -> None:
    monkeypatch.setattr(reading, "EXCERPTS", 4)
    lines = [f"line {i:04} über alles\n" for i in range(1000)]
    tokens = ByteTokenizer().encode("".join(lines))
    assert excerpts(tokens, ByteTokenizer(), len(tokens)) == ["".join(lines)]
    found = excerpts(tokens, ByteTokenizer(), 2000)
    assert len(found) == 4
    assert sum(len(text.encode()) for text in found) <= 2000
    shown = [line for text in found for line in text.splitlines(keepends=True)]
    assert len(shown) > 50
    assert set(shown) <= set(lines)
    firsts = [int(text[5:9]) for text in found]
    assert firsts[0] < 10
    assert firsts[-1] > 950


def test_characters_that_are_not_seen_are_found() -> None:
    planted = {
        "control": "\x00\x1b\r",
        "bidirectional": "\u202e\u2066\u200f",
        "invisible": "\u200b\u00ad\ufeff\u3164\U000e0041",
        "private": "\ue000",
        "unassigned": "\uffff",
        "replacement": "\ufffd",
    }
    text = "plain\ttext\n" + "".join(planted.values())
    expected = {kind: len(found) for kind, found in planted.items()}
    assert by_kind(character_counts([text, "more"])) == expected
    assert set(expected) | {"invalid"} == set(KINDS)
    assert not by_kind(character_counts(["Grüße, 漢字, привет, e\u0301 🙂\n"]))


def test_characters_are_counted_by_category_and_script() -> None:
    counts = character_counts(["ab ü", "Ж漢 1.\n"])
    assert counts.sum() == 10
    assert by_script(counts) == {"Latin": 3, "Cyrillic": 1, "Cjk": 1}
    categories = by_category(counts)
    assert categories["letters"] == 5
    assert categories["numbers"] == categories["punctuation"] == 1
    assert sum(categories.values()) == 10


def test_lines_are_counted_by_the_normal_forms_that_would_change_them() -> None:
    text = "plain\n\u00e9t\u00e9\ne\u0301\n\ufb01ne\n"  # composed, decomposed, a ligature
    assert lines_not_in([text]) == {"NFC": 1, "NFD": 1, "NFKC": 2}


def test_lines_said_again_are_counted_without_blank_ones() -> None:
    found = repeated_lines(["a\n  b\n\n\nb \na", "b\nc\n"])
    assert (found.total, found.repeats) == (6, 3)
    assert found.most == [("b", 3), ("a", 2)]
    assert repeated_lines(["one\ntwo\n"]).most == []
    assert repeated_lines(["", "\n\n"]).total == 0


def test_documents_of_the_same_bytes_are_found() -> None:
    given = Given(train=["one\n", "two\n"], test=["two\n", "two \n"])
    assert same_documents(given.documents(Path())) == [
        [("train", "train1.txt"), ("test", "test0.txt")]
    ]


@pytest.mark.parametrize(
    ("kind", "text", "masked"),
    [
        ("mail", "write to <ada.l+x@mail.difference.org>.", "a***@m***.org"),
        ("card", "card 4111-1111-1111-1111, paid", "41**-****-****-****"),
        ("iban", "to DE89 3704 0044 0532 0130 00.", "DE** **** **** **** **** **"),
        ("iban", "GB82WEST12345698765432", "GB********************"),
        ("iban", "DE54 8809 1891 6348 9676 99", "DE** **** **** **** **** **"),  # and a card
        ("ip", "from 192.168.0.17:80", "19*.***.*.**"),
        ("ip", "at 2001:db8::8a2e:370:7334 it", "20**:***::****:***:****"),
        ("phone", "call +44 20 7946 0958 now", "+4* ** **** ****"),
        ("phone", "(415) 555-2671", "(4**) ***-****"),
    ],
)
def test_personal_data_are_found_once_and_masked(kind, text, masked) -> None:
    (found,) = hints(text)
    assert (found.kind, found.masked) == (kind, masked)
    assert text[found.start : found.start + found.length][0] == masked[0]


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112",  # a wrong check digit
        "0000 0000 0000 0000",
        "DE88 3704 0044 0532 0130 00",
        "2026-11-26 12:30:45",
        "version 1.2.3, 999.1.1.1, 1.2.3.4.5",
        "3.14159265358979323846",
        "a[1::2] std::vector de:ad:be:ef",
        "user@localhost @decorator",
        "12345678901234567890123456789",
    ],
)
def test_what_only_looks_like_personal_data_is_left(text) -> None:
    assert not list(hints(text))


def test_a_long_line_is_searched_in_time_that_grows_with_its_length() -> None:
    for part in ("a.", "1 ", "1", "a@", "AB12 ", "1:", "+1 ", "1.1."):
        list(hints(part * (100_000 // len(part))))  # a quadratic search would take minutes


def test_a_shown_line_masks_hints_and_names_what_is_not_seen() -> None:
    assert shortened("by ada@difference.org\u202e!") == "by a***@d***.org<U+202E>!"
    assert "ada@" not in shortened("x" * 50 + " ada@difference.org and more of it")
    assert len(shortened("x" * 500)) == 60


def test_a_sound_text_holds(tmp_path) -> None:
    texts = {split: [prose(i)] for i, split in enumerate(("train", "val", "test"))}
    found = section(subject_of(Given(**texts), tmp_path))
    assert found.mark == "holds"
    assert value(found, "copied") == value(found, "unseen_tokens") == 0
    assert value(found, "repeated_documents") == 0
    assert "No pattern of personal data" in found.verdict
    keys = [measure.key for measure in found.measures()]
    assert len(keys) == len(set(keys))


def test_a_planted_copy_is_measured_and_fails(tmp_path) -> None:
    train, test = prose(0), prose(1)
    found = section(subject_of(Given(train=[train], test=[test + train[100:1500]]), tmp_path))
    assert found.mark == "fails"
    assert found.verdict.startswith(f"{100 * value(found, 'copied'):.1f} % of the test text stands")
    assert len(found.verdict) < 350
    asked = test + train[100:1500]
    left = train[: int(len(train) * 0.95)]  # validation is cut from its end
    starts = [i for i in range(len(asked) - 49) if asked[i : i + 50] in left]
    copied = {place for start in starts for place in range(start, start + 50)}
    assert value(found, "copied") == len(copied) / len(asked) > 0.1
    measure = found.measure("copied")
    assert measure is not None
    assert (measure.n, measure.interval_95, measure.seed) == (len(asked), None, None)


def test_a_document_in_two_splits_fails(tmp_path) -> None:
    given = Given(train=[prose(0), "x\n"], val=[prose(1)], test=[prose(2), prose(3), "x\n"])
    found = section(subject_of(given, tmp_path))
    assert found.mark == "fails"
    assert value(found, "documents_across") == 1


@pytest.mark.parametrize(
    ("planted", "key"),
    [("ada@difference.org", "personal_mail"), ("\u202eabc", "characters_bidirectional")],
)
def test_hints_and_controls_ask_for_care(tmp_path, planted, key) -> None:
    given = Given(train=[prose(0) + planted + "\n"], val=[prose(1)], test=[prose(2)])
    found = section(subject_of(given, tmp_path))
    assert found.mark == "caution"
    assert value(found, key) == 1
    shown = [cell for b in found.blocks if isinstance(b, Table) for row in b.rows for cell in row]
    assert not [cell for cell in shown if "ada@" in cell]


def test_characters_that_were_not_trained_on_ask_for_care(tmp_path) -> None:
    given = Given(train=[prose(0)], val=[prose(1)], test=["ŵŷ" * 10 + prose(2)])
    found = section(subject_of(given, tmp_path, CharTokenizer()))
    assert found.mark == "caution"
    assert value(found, "unseen_tokens") == 20 / len("ŵŷ" * 10 + prose(2))
    assert value(found, "characters_replacement") == 20
    assert "never seen" in found.verdict


def test_what_cleaning_changed_is_told(tmp_path) -> None:
    text = "\ufeffA line\r\nand\x07 one\n" + prose(0)
    cleaning = Cleaning(lower_case=True)
    found = section(subject_of(Given(train=[text]), tmp_path, cleaning=cleaning))
    cleaned = [value(found, key) for key in ("newlines_merged", "control_dropped", "marks_dropped")]
    assert cleaned == [1, 1, 1]
    assert any("lower case" in getattr(block, "text", "") for block in found.blocks)


def test_a_test_shorter_than_a_window_is_told(tmp_path) -> None:
    found = section(subject_of(Given(train=[prose(0)], test=["short\n"]), tmp_path))
    measure = found.measure("copied")
    assert measure is not None
    assert measure.value is None
    assert "6 bytes" in measure.how


def test_the_help_of_python_repeats_itself(tmp_path) -> None:
    subject = subject_of(PythonDocs(), tmp_path)
    found = section(subject)
    assert subject.text is not None
    train, test = (bytes(subject.text.tokens(s)) for s in ("train", "test"))
    starts = [i for i in range(len(test) - 49) if test[i : i + 50] in train]
    copied = {place for start in starts for place in range(start, start + 50)}
    assert value(found, "copied") == len(copied) / len(test) > 0.2
