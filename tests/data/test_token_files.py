"""Preparing a text: what is kept, where it is split, and what happens when something is wrong."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from project.data import token_files
from project.data.cleaning import Cleaning
from project.data.corpora import PythonDocs, TextCorpus, TinyShakespeare
from project.data.token_files import Preparation, TokenFile, prepare
from project.data.tokenization import BPETokenizer, ByteTokenizer, CharTokenizer, Tokenizer

TEXT = "".join(f"line {i} of a text, {'abcdefghij'[i % 10] * 3}\n" for i in range(200))


def preparation(path: Path, tokenizer: Tokenizer | None = None, **options) -> Preparation:
    ours = {n: options.pop(n) for n in ("val_path", "test_path", "encoding") if n in options}
    return Preparation(
        TextCorpus(str(path), **ours),
        tokenizer or ByteTokenizer(),
        Cleaning(**options.pop("cleaning", {})),
        options.pop("val_fraction", 0.1),
        options.pop("test_fraction", 0.1),
    )


def prepared(path: Path, *arguments, **options) -> TokenFile:
    return prepare(preparation(path, *arguments, **options), path.parent, path.parent / "cache")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT.encode())
    return path


def kept_in(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir()) if cache.exists() else []


# Splits


def test_splits_follow_one_another_and_hold_the_whole_text(text) -> None:
    file = prepared(text)
    parts = [bytes(file.tokens(split)).decode() for split in ("train", "val", "test")]
    assert "".join(parts) == TEXT
    shares = [len(part) / len(TEXT) for part in parts]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=1 / len(TEXT))


def test_vocabulary_is_learnt_from_the_training_text_alone(tmp_path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("ab" * 400 + "XYZ" * 34)
    characters, pairs = CharTokenizer(), BPETokenizer(300)
    file = prepared(path, characters)
    assert characters.characters == "ab"
    assert set(file.tokens("train").tolist()) == {1, 2}
    assert 0 in file.tokens("test")
    prepared(path, pairs)
    assert b"ab" in pairs.vocabulary
    assert not [token for token in pairs.vocabulary if len(token) > 1 and b"X" in token]


@pytest.mark.parametrize("val_fraction", [0.1, 0.11, 0.12, 0.13])
def test_no_character_is_cut_by_a_split(tmp_path, val_fraction) -> None:
    path = tmp_path / "text.txt"
    path.write_text("\U0001f600\u4f60" * 50, encoding="utf-8")
    file = prepared(path, val_fraction=val_fraction)
    parts = [bytes(file.tokens(split)).decode() for split in ("train", "val", "test")]
    assert "".join(parts) == "\U0001f600\u4f60" * 50


def test_validation_and_test_may_be_files_of_their_own(text) -> None:
    for name in ("val", "test"):
        text.with_name(f"{name}.txt").write_text(f"this is the {name} text")
    paths = {f"{name}_path": str(text.with_name(f"{name}.txt")) for name in ("val", "test")}
    file = prepared(text, **paths)
    assert bytes(file.tokens("train")).decode() == TEXT
    assert bytes(file.tokens("val")).decode() == "this is the val text"
    assert bytes(file.tokens("test")).decode() == "this is the test text"


def test_a_file_in_two_splits_is_refused(tmp_path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in ("a", "val"):
        (folder / f"{name}.txt").write_text(f"text {name}")
    corpus = TextCorpus(str(folder), str(folder / "val.txt"))
    with pytest.raises(ValueError, match=r"val.txt' would be train and val text at once; move it"):
        corpus.documents(tmp_path)


def test_a_folder_is_read_in_the_order_of_names(tmp_path) -> None:
    folder = tmp_path / "texts"
    for name, content in (("b", "second "), ("a", "first "), ("sub/c", "third "), ("e", "last")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.txt").write_text(content)
    (folder / "d.md").write_text("not a text")
    (folder / "e.txt").rename(folder / "e.TXT")
    file = prepared(folder, val_fraction=0.0, test_fraction=0.0)
    assert bytes(file.tokens("train")).decode() == "first second lastthird "


# Tokens on disk


@pytest.mark.parametrize(
    ("tokenizer", "dtype"),
    [(ByteTokenizer(), "uint8"), (BPETokenizer(257), "uint16"), (CharTokenizer(), "uint32")],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_tokens_take_the_smallest_type(tmp_path, tokenizer, dtype) -> None:
    path = tmp_path / "text.txt"
    points = (*range(0xA0, 0xD800), *range(0x10000, 0x14000))  # 71,520 characters
    path.write_text("ab ab ab\n" + "".join(map(chr, points)), encoding="utf-8", newline="")
    file = prepared(path, tokenizer, val_fraction=0.0, test_fraction=0.0)
    tokens = file.tokens("train")
    assert isinstance(tokens, np.memmap)
    assert tokens.dtype == dtype
    assert tokenizer.decode(tokens.tolist()) == path.read_text(encoding="utf-8")
    assert file.info["occurrences"][int(tokens[0])] >= 3


def test_tokens_are_made_once_while_text_and_options_agree(text) -> None:
    assert not prepared(text).was_cached
    assert prepared(text).was_cached
    moved = text.rename(text.with_name("renamed.txt"))
    assert prepared(moved).was_cached
    for changed in (
        preparation(moved, CharTokenizer()),
        preparation(moved, BPETokenizer(300)),
        preparation(moved, BPETokenizer(301)),
        preparation(moved, val_fraction=0.2),
        preparation(moved, test_fraction=0.2),
        preparation(moved, cleaning={"lower_case": True}),
        preparation(moved, encoding="latin-1"),
    ):
        assert not prepare(changed, moved.parent, moved.parent / "cache").was_cached
    moved.write_text(TEXT + "!")
    assert not prepared(moved).was_cached


@pytest.mark.parametrize("damage", ["truncated", "changed", "no sidecar", "no tokens", "not JSON"])
def test_a_damaged_cache_is_told_and_made_again(text, damage) -> None:
    file = prepared(text)
    whole = bytes(file.tokens("train"))
    tokens, sidecar = file.folder / "tokens.bin", file.folder / "tokens.json"
    content = tokens.read_bytes()
    if damage == "truncated":
        tokens.write_bytes(content[:-3])
    elif damage == "changed":
        tokens.write_bytes(b"#" + content[1:])
    elif damage == "not JSON":
        sidecar.write_text(sidecar.read_text()[:50])
    else:
        (sidecar if damage == "no sidecar" else tokens).unlink()
    with pytest.warns(UserWarning, match="is damaged .* it is made again"):
        again = prepared(text)
    assert not again.was_cached
    assert bytes(again.tokens("train")) == whole
    assert prepared(text).was_cached


def test_a_failure_half_way_leaves_nothing(text, monkeypatch) -> None:
    def fail(self, text):
        raise RuntimeError("half way")

    monkeypatch.setattr(ByteTokenizer, "encode", fail)
    with pytest.raises(RuntimeError, match="half way"):
        prepared(text)
    assert kept_in(text.parent / "cache") == []


def test_a_disk_that_fills_up_is_one_message_and_leaves_nothing(text) -> None:
    resource = pytest.importorskip("resource", reason="limits of file size are POSIX's")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match=r"cannot be written below .* make room there") as raised:
            prepared(text)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "--data.cache_dir" in str(raised.value)
    assert kept_in(text.parent / "cache") == []
    assert text.read_text() == TEXT


def test_the_tokens_of_a_faster_process_are_taken(text, monkeypatch) -> None:
    """Another process makes the same tokens while this one does."""
    whole = bytes(prepared(text).tokens("train"))
    (folder,) = (text.parent / "cache").iterdir()
    aside = folder.rename(text.parent / "aside")
    write = token_files.write_prepared

    def write_slowly(*arguments) -> None:
        write(*arguments)
        aside.rename(folder)

    monkeypatch.setattr(token_files, "write_prepared", write_slowly)
    assert bytes(prepared(text).tokens("train")) == whole
    assert kept_in(text.parent / "cache") == [folder.name]


def test_two_processes_at_once_both_have_the_tokens(text) -> None:
    program = (
        "from tests.data.test_token_files import prepared; from pathlib import Path; import sys;"
        "print(len(prepared(Path(sys.argv[1])).tokens('train')))"
    )
    root = Path(token_files.__file__).parents[2]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(text)], cwd=root, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    lengths = [int(process.communicate()[0]) for process in running]
    assert lengths[0] == lengths[1] == pytest.approx(0.8 * len(TEXT), abs=1)
    assert len(kept_in(text.parent / "cache")) == 1


# Bad text


def refusal(path: Path, **options) -> str:
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the message is looked at
        prepared(path, **options)
    assert kept_in(path.parent / "cache") == []
    return str(raised.value)


@pytest.mark.parametrize("content", [b"", b"\x00\x01", b"\xef\xbb\xbf"])
def test_an_empty_text_is_refused(tmp_path, content) -> None:
    path = tmp_path / "empty.txt"
    path.write_bytes(content)
    assert "empty.txt' is empty" in refusal(path)


@pytest.mark.parametrize("before", [0, 10, (1 << 20) - 1, (1 << 20) + 5])
def test_bytes_that_are_not_utf8_are_named_with_their_offset(tmp_path, before) -> None:
    path = tmp_path / "old.txt"
    path.write_bytes(b"a" * before + "caf\u00e9 au lait".encode("cp1252"))
    message = refusal(path)
    assert f"byte 0xe9 at offset {before + 3:,}" in message
    assert "--data.corpus.encoding cp1252" in message
    file = prepared(path, encoding="cp1252", val_fraction=0.0, test_fraction=0.0)
    assert bytes(file.tokens("train")).decode().endswith("caf\u00e9 au lait")


def test_a_character_cut_off_at_the_end_is_named(tmp_path) -> None:
    path = tmp_path / "cut.txt"
    path.write_bytes(b"abc" + "\u4f60".encode()[:2])
    assert "byte 0xe4 at offset 3" in refusal(path)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1", "utf-8-sig", "shift_jis"])
def test_other_encodings_are_read(tmp_path, encoding) -> None:
    path = tmp_path / "text.txt"
    content = "h\u00e9llo\n" if encoding != "shift_jis" else "\u65e5\u672c\n"
    path.write_bytes((content * 50).encode(encoding))
    file = prepared(path, encoding=encoding, val_fraction=0.0, test_fraction=0.0)
    assert bytes(file.tokens("train")).decode() == content * 50


@pytest.mark.parametrize("name", ["val", "test"])
def test_an_empty_text_of_another_split_is_named_with_its_own_counts(text, name) -> None:
    empty = text.with_name("empty.txt")
    empty.write_bytes(b"\x00")
    message = refusal(text, **{f"{name}_path": str(empty)})
    assert "empty.txt' is empty: 1 characters read and none kept" in message


def test_utf16_without_a_mark_names_the_remedy(tmp_path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes("some text".encode("utf-16-le"))
    assert "--data.corpus.encoding utf-16-le" in refusal(path, encoding="utf-16")


def test_an_unknown_encoding_and_missing_files_are_refused(tmp_path, text) -> None:
    for encoding in ("utf-9", "hex", "rot13"):
        assert f"there is no encoding '{encoding}' of text" in refusal(text, encoding=encoding)
    assert "is not there" in refusal(tmp_path / "nothing.txt")
    (tmp_path / "folder").mkdir()
    assert "without any .txt file" in refusal(tmp_path / "folder")


def test_a_damaged_tinyshakespeare_is_refused(tmp_path) -> None:
    path = tmp_path / "tinyshakespeare" / "input.txt"
    path.parent.mkdir()
    path.write_text("First Citizen:")
    with pytest.raises(ValueError, match="is damaged: 14 bytes"):
        TinyShakespeare().documents(tmp_path)


# The embedded text


def test_python_docs_are_half_a_megabyte_of_english() -> None:
    (document,) = PythonDocs().documents(Path("unused"))["train"]
    content = document.open().read().decode()
    assert len(content) > 400_000
    assert content.count(" the ") > 3_000
    assert document.sha256() == PythonDocs().documents(Path("unused"))["train"][0].sha256()


# Size


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lines", "one line", "bpe"])
def test_memory_does_not_grow_with_the_text(tmp_path, kind) -> None:
    pytest.importorskip("resource", reason="memory is read from POSIX's getrusage")
    program = (
        "import resource, sys; from pathlib import Path\n"
        "from tests.data.test_token_files import BPETokenizer, prepared\n"
        "tokenizer = BPETokenizer(512) if sys.argv[2] == 'bpe' else None\n"
        "prepared(Path(sys.argv[1]), tokenizer, cleaning={'lower_case': True})\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    root = Path(token_files.__file__).parents[2]
    peaks = []
    text = TEXT.replace("\n", "").replace(" ", "") if kind == "one line" else TEXT
    for megabytes in (2, 50 if kind == "bpe" else 200):
        path = tmp_path / f"{megabytes}.txt"
        with path.open("w") as file:
            for _ in range(megabytes):
                file.write(text * (1_000_000 // len(text)))
        command = [sys.executable, "-c", program, str(path), kind]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] - peaks[0] < 100


def test_sidecar_says_what_was_done(text) -> None:
    file = prepared(text, CharTokenizer())
    info = json.loads((file.folder / "tokens.json").read_text())
    assert sum(info["tokens"].values()) == len(TEXT)
    assert info["characters"]["read"] == info["characters"]["kept"] == len(TEXT)
    assert sum(info["occurrences"]) == info["tokens"]["train"]
    assert info["made_from"]["cleaning"] == dataclasses.asdict(Cleaning())
    assert len(info["sha256"]["tokens"]) == 64
