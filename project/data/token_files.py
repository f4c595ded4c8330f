"""From a text corpus to one flat file of tokens: clean, split, fit, encode; kept and reused.

Every step streams, so that a text may be larger than the memory. The training text alone is seen
when a tokenizer is fitted, because the text is split before.

A prepared corpus is a folder `<cache>/<corpus>-<tokenizer>-<key>` with `tokens.bin`, the tokens of
train, validation and test one after the other, and `tokens.json`, which says what they are. The
key is a hash of the text and of every option, so that another text or option is another folder.
"""

import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from project.data.cleaning import (
    BLOCK_BYTES,
    MAX_LINE_BYTES,
    Cleaning,
    clean,
    decoded,
    no_counts,
)
from project.data.corpora import Corpus, Document
from project.data.tokenization import Tokenizer

FORMAT = 1  # of the folder; part of its key
SHOWN_BYTES = 1 << 23  # a smaller text is done before a bar could be read
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Preparation:
    """Everything that decides the tokens.

    Args:
        val_fraction, test_fraction: Shares cut from the end of the training text, in [0, 1), for
            a split that the corpus has no document of: train, then validation, then test.
        is_fitted: Use the tokenizer as it is, which may have been fitted to another text.

    Raises:
        ValueError: If a share is out of range or nothing is left to train on.
    """

    corpus: Corpus
    tokenizer: Tokenizer
    cleaning: Cleaning
    val_fraction: float
    test_fraction: float
    is_fitted: bool = False

    def __post_init__(self) -> None:
        for name in ("val_fraction", "test_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must lie in [0, 1)")
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"val_fraction {self.val_fraction} + test_fraction {self.test_fraction} leave "
                "nothing to train on; make them smaller"
            )


class TokenFile:
    """A prepared corpus on disk.

    Attributes:
        info: What `tokens.json` holds: sizes of the splits in tokens and bytes, characters read
            and dropped, vocabulary, hashes.
        was_cached: Whether it was there before.
    """

    def __init__(self, folder: Path, info: dict[str, Any]) -> None:
        self.folder = folder
        self.info = info
        self.was_cached = True

    def tokens(self, split: str) -> NDArray[np.unsignedinteger[Any]]:
        """Return the tokens of a split, (n,), mapped from the disk and not read before use."""
        sizes = self.info["tokens"]
        before = sum(sizes[name] for name in SPLITS[: SPLITS.index(split)])
        dtype = np.dtype(self.info["dtype"])
        if sizes[split] == 0:  # an empty file cannot be mapped
            return np.empty(0, dtype)
        path = self.folder / "tokens.bin"
        return np.memmap(path, dtype, "r", before * dtype.itemsize, shape=(sizes[split],))


def prepare(preparation: Preparation, root: Path, cache: Path) -> TokenFile:
    """Return the tokens of a corpus, from the cache where they are there and whole.

    Args:
        root: Folder of the data files.
        cache: Folder of prepared corpora.

    Raises:
        ValueError: If the text is empty or not in its encoding, with the place.
        OSError: If the disk is full; nothing is left behind.
    """
    documents = preparation.corpus.documents(root)
    identity = identity_of(preparation, documents)
    folder = folder_of(preparation, identity, cache)
    if preparation.is_fitted and not was_fitted_alike(folder, preparation.tokenizer):
        identity["tokenizer_state"] = sha256_of_json(preparation.tokenizer.state_dict())
        folder = folder_of(preparation, identity, cache)
    if folder.is_dir():
        try:
            return open_prepared(folder)
        except ValueError as damage:
            warnings.warn(f"{damage}; it is made again", stacklevel=2)
            shutil.rmtree(folder)
    try:
        with new_folder(folder) as made, progress_bars(documents) as progress:
            write_prepared(made, preparation, documents, identity, progress)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS):
            raise
        name = type(preparation.corpus).__name__
        raise OSError(
            f"the tokens of {name} cannot be written below {str(cache)!r} "
            f"({os.strerror(error.errno)}); make room there, or set --data.cache_dir DIR"
        ) from error
    token_file = open_prepared(folder)
    token_file.was_cached = False
    return token_file


def folder_of(preparation: Preparation, identity: dict[str, Any], cache: Path) -> Path:
    names = [type(part).__name__ for part in (preparation.corpus, preparation.tokenizer)]
    return cache / f"{names[0]}-{names[1]}-{sha256_of_json(identity)[:12]}"


def sha256_of_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def was_fitted_alike(folder: Path, tokenizer: Tokenizer) -> bool:
    """Return whether a tokenizer is the one that the text of a prepared corpus leads to."""
    state = tokenizer.state_dict()
    if not state:  # nothing was learnt
        return True
    try:
        return bool(json.loads((folder / "tokens.json").read_bytes())["tokenizer"] == state)
    except (OSError, ValueError, KeyError):  # not there, or damaged
        return False


def token_cache(root: Path, cache_dir: str | None) -> Path:
    """Return the folder of prepared corpora: `cache_dir`, else `tokens` in the data folder."""
    return Path(cache_dir).expanduser() if cache_dir else root / "tokens"


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Give a folder to fill, which becomes `folder` at the end; on an error nothing is left."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".being-made-") as temporary:
        made = Path(temporary, "made")
        made.mkdir()
        yield made
        try:
            made.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first: its folder is as good
                raise


@contextmanager
def progress_bars(documents: dict[str, list[Document]]) -> Iterator[Callable[[str, int], None]]:
    """Give a function that is told (stage, bytes done) and draws a bar a stage.

    On a terminal, for a text of 8 MB or more.
    """
    total = sum(document.num_bytes() for part in documents.values() for document in part)
    if total < SHOWN_BYTES or not sys.stderr.isatty():
        yield lambda stage, num_bytes: None
        return
    from rich import progress as rich
    from rich.console import Console

    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.DownloadColumn(),
        rich.TransferSpeedColumn(),
    )
    with rich.Progress(*columns, console=Console(stderr=True)) as bars:
        stages: dict[str, rich.TaskID] = {}

        def progress(stage: str, num_bytes: int) -> None:
            if stage not in stages:
                stages[stage] = bars.add_task(f"{stage:<8}", total=total)
            bars.advance(stages[stage], num_bytes)

        yield progress


def identity_of(preparation: Preparation, documents: dict[str, list[Document]]) -> dict[str, Any]:
    """Return all that decides the tokens, as JSON; its hash is the key of the folder."""
    tokenizer = preparation.tokenizer
    return {
        "format": FORMAT,
        "documents": {split: sha256_of(part) for split, part in documents.items()},
        "encoding": preparation.corpus.encoding,
        "cleaning": asdict(preparation.cleaning),
        "val_fraction": preparation.val_fraction,
        "test_fraction": preparation.test_fraction,
        "tokenizer": f"{type(tokenizer).__module__}.{type(tokenizer).__qualname__}",
        "tokenizer_options": tokenizer.options(),
    }


def sha256_of(documents: list[Document]) -> str:
    """Return the hash of the documents' hashes, in order."""
    return hashlib.sha256("".join(d.sha256() for d in documents).encode()).hexdigest()


def open_prepared(folder: Path) -> TokenFile:
    """Open a prepared corpus after checking that it is whole.

    Raises:
        ValueError: If a file is missing, of the wrong length, or not what its hash says.
    """
    try:
        info = json.loads((folder / "tokens.json").read_text(encoding="utf-8"))
        path = folder / "tokens.bin"
        expected = sum(info["tokens"].values()) * np.dtype(info["dtype"]).itemsize
        if path.stat().st_size != expected:
            raise ValueError(
                f"{path.stat().st_size:,} bytes of tokens where {expected:,} were written"
            )
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != info["sha256"]["tokens"]:
                raise ValueError("the SHA-256 of its tokens is not the one written down")
    except (OSError, ValueError, KeyError) as error:  # JSON errors are ValueErrors
        raise ValueError(f"the prepared corpus {str(folder)!r} is damaged ({error})") from error
    return TokenFile(folder, info)


def write_prepared(
    folder: Path,
    preparation: Preparation,
    documents: dict[str, list[Document]],
    identity: dict[str, Any],
    progress: Callable[[str, int], None],
) -> None:
    """Write `tokens.bin` and `tokens.json` of a corpus into an empty folder."""
    text = folder / "text"
    sizes, characters = write_clean_text(text, preparation, documents, progress)
    ranges = split_ranges(text, sizes, preparation)
    tokenizer = preparation.tokenizer
    if not preparation.is_fitted:
        tokenizer.fit(read_lines(text, *ranges["train"], lambda n: progress("fit", n)))
    vocab_size = len(tokenizer.vocabulary)
    dtype = np.min_scalar_type(vocab_size - 1)
    digest = hashlib.sha256()
    occurrences = {split: np.zeros(vocab_size, np.int64) for split in SPLITS}
    with (folder / "tokens.bin").open("wb") as file:
        for split in SPLITS:
            for piece in read_lines(text, *ranges[split], lambda n: progress("encode", n)):
                tokens = tokenizer.encode(piece).astype(dtype, copy=False)
                occurrences[split] += np.bincount(tokens, minlength=vocab_size)
                digest.update(tokens.data)
                file.write(tokens.data)
        file.flush()
        os.fsync(file.fileno())
    text.unlink()
    info = {
        "tokens": {split: int(counts.sum()) for split, counts in occurrences.items()},
        "bytes": {split: end - start for split, (start, end) in ranges.items()},
        "dtype": dtype.name,
        "vocab_size": vocab_size,
        "characters": characters,
        "occurrences": occurrences["train"].tolist(),
        "sha256": {"tokens": digest.hexdigest()},
        "made_from": identity,
        "tokenizer": tokenizer.state_dict(),
    }
    (folder / "tokens.json").write_text(json.dumps(info), encoding="utf-8")


def write_clean_text(
    path: Path,
    preparation: Preparation,
    documents: dict[str, list[Document]],
    progress: Callable[[str, int], None],
) -> tuple[dict[str, int], dict[str, int]]:
    """Write the documents as clean UTF-8; return bytes of each split and characters by fate.

    Raises:
        ValueError: If the training text, or one given for another split, has nothing in it.
    """
    counts = no_counts()
    sizes: dict[str, int] = {}
    with path.open("wb") as file:
        for split in SPLITS:
            if split not in documents:
                continue
            start, read_before = file.tell(), counts["read"]
            for document in documents[split]:
                blocks = decoded(document, preparation.corpus.encoding, progress)
                for piece in clean(blocks, preparation.cleaning, counts):
                    file.write(piece.encode())
            sizes[split] = file.tell() - start
            if sizes[split] == 0:
                names = ", ".join(repr(d.name) for d in documents[split][:3])
                raise ValueError(
                    f"the text corpus {names} is empty: {counts['read'] - read_before:,} "
                    "characters read and none kept; give a text with words in it"
                )
    return sizes, counts


def split_ranges(
    path: Path, sizes: dict[str, int], preparation: Preparation
) -> dict[str, tuple[int, int]]:
    """Return the (first byte, end) of each split in the clean text, between two characters."""
    shared = sizes["train"]
    val = 0.0 if "val" in sizes else preparation.val_fraction
    test = 0.0 if "test" in sizes else preparation.test_fraction
    with path.open("rb") as file:
        train_end = character_start(file, int(shared * (1 - val - test)))
        val_end = character_start(file, int(shared * (1 - test)))
    ranges = {"train": (0, train_end), "val": (train_end, val_end), "test": (val_end, shared)}
    position = shared
    for split in ("val", "test"):
        if split in sizes:
            ranges[split] = (position, position + sizes[split])
            position += sizes[split]
    return ranges


def character_start(file: BinaryIO, offset: int) -> int:
    """Return the first byte from `offset` on that does not continue a UTF-8 character."""
    file.seek(offset)
    following = file.read(3)
    return offset + next((i for i, b in enumerate(following) if b & 0xC0 != 0x80), len(following))


def read_lines(path: Path, start: int, end: int, progress: Callable[[int], None]) -> Iterator[str]:
    """Yield the clean text between two bytes, in pieces of whole lines."""
    rest = b""
    with path.open("rb") as file:
        file.seek(start)
        while block := file.read(min(BLOCK_BYTES, end - file.tell())):
            progress(len(block))
            rest += block
            cut = rest.rfind(b"\n") + 1
            if cut == 0 and len(rest) > MAX_LINE_BYTES:
                cut = len(rest) - next(i for i in (1, 2, 3, 4) if rest[-i] & 0xC0 != 0x80)
            if cut:
                yield rest[:cut].decode()
                rest = rest[cut:]
    if rest:
        yield rest.decode()
