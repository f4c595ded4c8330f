"""Where in a text a language model loses: by place, frequency and kind of token, and passages.

Shape letters: N tokens of a split, V vocabulary. Losses are of the tokens after the first.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from project.intervals import mean_interval
from project.reporting.findings import Block, Passage, Picture, Table, digits
from project.reporting.text.opened import Text
from project.reporting.text.pictures import context_picture

PASSAGE_BYTES = 200
HARDEST, EASIEST = 3, 2
KINDS = (
    "first letter of a word",
    "letter within a word",
    "digit",
    "punctuation",
    "space",
    "line break",
    "other",
)


class Loss(NamedTuple):
    """The mean loss of some tokens, nats, with its 95 % interval over windows."""

    mean: float
    interval_95: tuple[float, float] | None
    n: int
    share: float  # of the loss of all tokens

    def cells(self) -> list[str]:
        """Return tokens, loss with its interval, share of all loss, for a table."""
        ends = self.interval_95
        interval = f" ({digits(ends[0])} to {digits(ends[1])})" if ends else ""
        return [f"{self.n:,}", f"{digits(self.mean)}{interval}", f"{100 * self.share:.1f} %"]


def loss_by(groups: Tensor, losses: Tensor, windows: Tensor) -> dict[int, Loss]:
    """Return the loss of the tokens of each group that has any.

    Args:
        groups: Of each token, int64 (N - 1,).
        losses: Nats, (N - 1,).
        windows: Number of the window of each token, int64 (N - 1,).
    """
    found, everything = {}, losses.double().sum().item()
    for group in groups.unique().tolist():
        chosen = groups == group
        some = losses[chosen].double()
        sums, counts = by_window(some, windows[chosen])
        interval = mean_interval(sums.tolist(), counts.tolist())
        share = some.sum().item() / everything if everything else 0.0
        found[group] = Loss(some.mean().item(), interval, len(some), share)
    return found


def tokens_of(text: Text, split: str) -> Tensor:
    """Return the tokens of a split in memory, int64 (N,)."""
    return torch.from_numpy(np.asarray(text.tokens(split)).astype(np.int64))


def by_window(losses: Tensor, windows: Tensor) -> tuple[Tensor, Tensor]:
    """Return sum of losses, float64, and number of tokens of each window that has any."""
    counts = torch.bincount(windows)
    sums = torch.bincount(windows, losses.double())
    return sums[counts > 0], counts[counts > 0]


def by_place(losses: Tensor, windows: Tensor, read: Tensor) -> list[Block]:
    """Return how the loss falls with the tokens that were read before."""
    doublings = read.double().log2().ceil().long()
    found = loss_by(doublings, losses, windows)
    labels = [f"{2**d}" if d < 2 else f"{2 ** (d - 1) + 1} to {2**d}" for d in found]
    rows = [[label, *loss.cells()[:2]] for label, loss in zip(labels, found.values(), strict=True)]
    first, last = (found[d].mean for d in (min(found), max(found)))
    caption = (
        "Loss of a token by how many tokens the model had read before it: 1, 2, 3 to 4, 5 to 8, "
        "and so on, drawn at the largest, with 95 % intervals over windows. These are different "
        "tokens; what the same tokens lose without their context is told by interpretability."
    )
    alt = f"Loss goes from {first:.2f} nats to {last:.2f} with context"
    return [
        Picture(
            "loss_by_context",
            context_picture(
                [2**d for d in found],
                [loss.mean for loss in found.values()],
                [loss.interval_95 or (loss.mean, loss.mean) for loss in found.values()],
            ),
            caption,
            alt,
        ),
        Table(["tokens read before", "tokens", "loss, nats"], rows, "By context"),
    ]


def by_frequency(text: Text, split: str, losses: Tensor, windows: Tensor) -> Table:
    """Return the loss by how often the token occurs in the training text."""
    times = torch.tensor(text.data.info["occurrences"])[tokens_of(text, split)[1:]]
    powers = torch.where(times > 0, times.clamp(min=1).double().log10().floor(), -1).long()
    found = loss_by(powers, losses, windows)
    rows = [
        ["never" if p < 0 else f"{10**p:,} to {10 ** (p + 1) - 1:,}", *loss.cells()]
        for p, loss in found.items()
    ]
    head = ["times in the training text", "tokens", "loss, nats", "of all loss"]
    return Table(head, rows, "By frequency of the token")


def by_kind(text: Text, split: str, losses: Tensor, windows: Tensor) -> Table:
    """Return the loss by the kind of the token's first character that is not a space."""
    found = loss_by(kinds(text.tokenizer.vocabulary, tokens_of(text, split)), losses, windows)
    rows = [[KINDS[k], *loss.cells()] for k, loss in found.items()]
    return Table(["kind of token", "tokens", "loss, nats", "of all loss"], rows, "By kind of token")


def kinds(vocabulary: list[bytes], tokens: Tensor) -> Tensor:
    """Return the number in `KINDS` of each token after the first, int64 (N - 1,).

    A word begins with a letter that no letter stands before.

    Args:
        tokens: int64 (N,).
    """
    pieces = [token.decode(errors="replace") for token in vocabulary]
    kind = torch.tensor([kind_of(piece) for piece in pieces])  # (V,), letters as within a word
    is_within = torch.tensor([piece[-1:].isalpha() for piece in pieces])[tokens[:-1]]
    begins = torch.tensor([piece[:1].isspace() for piece in pieces])[tokens[1:]]
    found = kind[tokens[1:]]
    return torch.where((found == 1) & (begins | ~is_within), 0, found)


def kind_of(piece: str) -> int:
    start = piece.lstrip()[:1]
    if not start:
        return 5 if "\n" in piece else 4
    if start == "\ufffd" or (ord(start) > 127 and not start.isalpha()):
        return 6
    return 1 if start.isalpha() else 2 if start.isdigit() else 3


def passages(text: Text, split: str, losses: Tensor) -> list[Block]:
    """Return the passages of about 200 bytes with the most and the least loss a byte."""
    tokens = tokens_of(text, split)
    sizes = text.byte_counts[tokens[1:]].double()
    length = max(1, round(PASSAGE_BYTES / max(sizes.mean().item(), 1e-9)))
    if len(losses) < (HARDEST + EASIEST) * length:
        return []
    bits, num_bytes = (window_sums(v, length) for v in (losses.double() / math.log(2), sizes))
    per_byte = bits / num_bytes.clamp(min=1)
    blocks: list[Block] = []
    for title, count, sign in (("Hardest", HARDEST, 1.0), ("Easiest", EASIEST, -1.0)):
        left = sign * per_byte
        for _ in range(count):
            start = int(left.argmax())
            left[max(0, start - length + 1) : start + length] = -torch.inf
            # Loss i is of token i + 1.
            passage = text.tokenizer.decode(tokens[start + 1 : start + 1 + length].tolist())
            where = f"{per_byte[start]:.2f} bits/byte, from token {start + 1:,} of {split}"
            blocks.append(Passage(passage, f"{title}: {where}"))
    return blocks


def window_sums(values: Tensor, length: int) -> Tensor:
    """Return the sum of each `length` neighbours, (n - L + 1,)."""
    sums = torch.cat([torch.zeros(1, dtype=values.dtype), values.cumsum(0)])
    return sums[length:] - sums[:-length]
