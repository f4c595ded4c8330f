"""Texts that a language model was not made for, and windows of them.

Shape letters: B windows, T tokens of a window.
"""

import importlib.util
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from project.data.corpora import Corpus, Document, PythonDocs, TinyShakespeare
from project.data.loader import IGNORED
from project.data.text import TextData, TokenBatch
from project.data.tokenization import UNKNOWN, Tokens
from project.reporting.text.opened import Text

SOURCE_MODULES = ("inspect", "json.decoder", "argparse", "typing")


def words_shuffled(text: str, generator: Generator) -> str:
    """Return the same words in another order, between the same spaces and line ends."""
    pieces = re.split(r"(\s+)", text)  # words at even places, what is between at odd ones
    words = pieces[::2]
    pieces[::2] = [words[i] for i in torch.randperm(len(words), generator=generator)]
    return "".join(pieces)


def shuffled(text: str, generator: Generator) -> str:
    """Return the same characters in another order."""
    return "".join(text[i] for i in torch.randperm(len(text), generator=generator))


def readable(text: str) -> str:
    """Return a decoded text without the marks of characters that a window cuts in two."""
    return text.replace(UNKNOWN, "")


def windows_of(rows: Sequence[Tokens | list[int]], length: int) -> TokenBatch:
    """Return a batch of the first `length` + 1 tokens of each row; what is missing is not counted.

    Args:
        rows: At least two tokens each, (B,).
    """
    tokens = torch.zeros(len(rows), length + 1, dtype=torch.int64)
    counted = torch.zeros(len(rows), length + 1, dtype=torch.bool)
    for i, row in enumerate(rows):
        kept = min(len(row), length + 1)
        tokens[i, :kept] = torch.tensor(np.asarray(row[:kept], np.int64))
        counted[i, :kept] = True
    return TokenBatch(tokens[:, :-1], tokens[:, 1:].masked_fill(~counted[:, 1:], IGNORED), False)


def target_bytes(text: Text, targets: Tensor) -> Tensor:
    """Return the bytes that each target stands for, int64 (B, T), 0 where it is not counted."""
    return text.byte_counts[targets.clamp(min=0)] * (targets != IGNORED)


def whole_rows(batch: TokenBatch) -> Tensor:
    """Return the T + 1 tokens of each window in which nothing is missing, int64 (B, T + 1)."""
    return torch.cat([batch.inputs, batch.targets[:, -1:]], dim=1)


def other_texts(data: TextData) -> dict[str, tuple[str, Document]]:
    """Return titles and texts that are here without a download and are not these data's own."""
    found = {"python_source": ("Python source code", source_code())}
    known: dict[str, tuple[str, Corpus]] = {
        "python_docs": ("the Python manual", PythonDocs()),
        "shakespeare": ("plays of Shakespeare", TinyShakespeare()),
    }
    for key, (title, corpus) in known.items():
        if isinstance(data.corpus, type(corpus)):
            continue
        with suppress(ValueError, OSError):  # it is not there
            [document] = corpus.documents(data.root)["train"]
            found[key] = (title, document)
    return found


def source_code() -> Document:
    """Return the source of some modules that ship with every CPython."""
    specs = [importlib.util.find_spec(name) for name in SOURCE_MODULES]
    paths = [Path(spec.origin) for spec in specs if spec is not None and spec.origin is not None]
    return Document("the standard library", b"\n".join(path.read_bytes() for path in paths))
