"""What the same continuation costs a language model after a context without and with typos.

Shape letters: B windows, C tokens of a context, R of a continuation, T of both.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from project.data.tokenization import Tokens
from project.reporting.subject import Subject
from project.reporting.text.opened import Text
from project.reporting.text.strange_texts import readable, target_bytes, whole_rows, windows_of
from project.reporting.text.typos import KINDS, typed

RATES = (0.01, 0.02, 0.05, 0.10, 0.20)  # of the letters


@dataclass
class Windows:
    """Test text in two parts.

    Attributes:
        texts: Of the contexts, (B,).
        contexts: Tokens of those, read anew: of BPE they may be others than in the long text.
        continuations: int64 (B, R).
        num_bytes: Of each continuation, int64 (B,).
        longest: Tokens that a context may have for the continuation to fit behind it.
    """

    texts: list[str]
    contexts: list[Tokens]
    continuations: Tensor
    num_bytes: Tensor
    longest: int


@dataclass
class Cost:
    """Losses of continuations and of the contexts before them, bits, of each window (B,)."""

    continuation: Tensor
    num_bytes: Tensor
    context: Tensor
    context_bytes: Tensor

    @property
    def per_byte(self) -> float:
        """The bits per byte of all continuations together."""
        return (self.continuation.sum() / self.num_bytes.sum()).item()


Costs = dict[tuple[str, float], Cost]  # by kind and rate


def drawn_windows(subject: Subject, text: Text, n: int) -> Windows | None:
    """Return windows of the test text that do not overlap; None where there are not two."""
    context, continuation = text.context_length // 2, text.context_length // 4
    if continuation < 1:
        return None
    width = context + continuation
    batch = text.windows(text.measured_split, n, subject.generator("robustness"), width - 1)
    rows = whole_rows(batch)  # (B, C + R)
    if rows.shape[1] < width:
        return None
    texts = [readable(text.tokenizer.decode(row)) for row in rows[:, :context].tolist()]
    told = [i for i, piece in enumerate(texts) if piece]
    if len(told) < 2:
        return None
    rows, texts = rows[told], [texts[i] for i in told]
    num_bytes = text.byte_counts[rows[:, context:]].sum(dim=1).clamp(min=1)
    longest = text.context_length + 1 - continuation
    contexts = [text.tokenizer.encode(piece)[-longest:] for piece in texts]
    return Windows(texts, contexts, rows[:, context:], num_bytes, longest)


def cost(text: Text, windows: Windows, contexts: Sequence[Tokens]) -> Cost:
    """Return what continuations cost after contexts, each read from nothing."""
    lengths = torch.tensor([len(context) for context in contexts])[:, None]
    rows = [
        np.concatenate([context, after])
        for context, after in zip(contexts, windows.continuations.numpy(), strict=True)
    ]
    batch = windows_of(rows, max(map(len, rows)) - 1)
    bits = text.losses_of(batch).double() / math.log(2)  # (B, T - 1)
    is_after = torch.arange(bits.shape[1]) >= lengths - 1  # target i is token i + 1 of its row
    before, after = bits * ~is_after, bits * is_after
    context_bytes = (target_bytes(text, batch.targets) * ~is_after).sum(dim=1)
    return Cost(after.sum(dim=1), windows.num_bytes, before.sum(dim=1), context_bytes)


def typed_costs(subject: Subject, text: Text, windows: Windows) -> tuple[Costs, int]:
    """Return what continuations cost after typos, and how many contexts grew too long for all.

    Nothing where there are no letters to mistype.
    """
    if not any(letter.isalpha() for piece in windows.texts for letter in piece):
        return {}, 0
    known: dict[str, bool] = {}

    def is_known(letter: str) -> bool:
        return known.setdefault(letter, not text.tokenizer.unknown(letter))

    conditions = [(kind, rate) for kind in KINDS for rate in RATES]
    found, num_cut = {}, 0
    for kind, rate in subject.track(conditions, "making typos"):
        generator = subject.generator("robustness", list(KINDS).index(kind), round(1000 * rate))
        contexts = []
        for piece, context in zip(windows.texts, windows.contexts, strict=True):
            tokens = text.tokenizer.encode(typed(piece, kind, rate, generator, is_known))
            num_cut += len(tokens) > windows.longest
            contexts.append(tokens[-windows.longest :] if len(tokens) else context)
        found[kind, rate] = cost(text, windows, contexts)
    return found, num_cut
