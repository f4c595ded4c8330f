"""Does a language model repeat the text that it was trained on?

Shape letters: N characters of the training text, n of another, L of a span, B prompts, T tokens,
P of a prompt.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Characters = NDArray[np.unsignedinteger]  # code points, or bytes
Hashes = NDArray[np.uint64]
CHUNK = 1 << 20  # characters of the training text that are looked at together
AT_ONCE = 1 << 24  # logits in memory: 64 MB
FACTOR = 0x9E3779B97F4A7C15  # odd, so that one can divide by it modulo 2^64
SPREAD = 0xD6E8FEB86659FD93  # so that near code points have far values
FILTER_SHIFT = np.uint64(64 - 20)


def characters(text: str) -> Characters:
    """Return the code points of a text, (n,)."""
    return np.frombuffer(text.encode("utf-32-le", "replace"), np.uint32)


def spans_found(
    train: Characters, texts: Sequence[Characters], length: int
) -> list[NDArray[np.bool_]]:
    """Return for each text whether its span of `length` from each place is in `train`.

    Each (n - L + 1,), empty for a text that is shorter. One pass over `train` finds spans by their
    hash (Karp & Rabin 1987), which are then compared letter for letter. Two spans of the texts
    with the same 64-bit hash are taken for one.
    """
    hashes = [span_hashes(text, length) for text in texts]
    wanted, example, group = np.unique(
        np.concatenate(hashes), return_index=True, return_inverse=True
    )
    whole = np.concatenate(texts)
    ends = np.cumsum([len(text) for text in texts])
    starts = [
        end - len(text) + np.arange(len(h))
        for h, end, text in zip(hashes, ends, texts, strict=True)
    ]
    origin = np.concatenate(starts)[example]  # in `whole`, of one span of each hash
    is_possible = np.zeros(1 << 20, dtype=bool)  # of the first 20 bits: rules out nearly all
    is_possible[wanted >> FILTER_SHIFT] = True
    found = np.zeros(len(wanted), dtype=bool)
    for start in range(0, len(train) - length + 1, CHUNK):
        here = train[start : start + CHUNK + length - 1]
        there = span_hashes(here, length)
        places = np.flatnonzero(is_possible[there >> FILTER_SHIFT])
        number = np.searchsorted(wanted, there[places]).clip(max=len(wanted) - 1)
        hits = (wanted[number] == there[places]) & ~found[number]
        for k, first in zip(*np.unique(number[hits], return_index=True), strict=True):
            place, there_too = places[hits][first], origin[k]
            one, other = here[place : place + length], whole[there_too : there_too + length]
            found[k] = np.array_equal(one, other)
    return np.split(found[group], np.cumsum([len(h) for h in hashes])[:-1])


def is_repeated(train: Characters, text: Characters, length: int) -> NDArray[np.bool_]:
    """Return whether each character of a text lies in a span of `length` that is in `train`."""
    (found,) = spans_found(train, [text], length)
    starts = np.zeros(len(text) + 1, dtype=np.int64)
    places = np.flatnonzero(found)
    np.add.at(starts, places, 1)
    np.add.at(starts, places + length, -1)
    return starts.cumsum()[:-1] > 0


def span_hashes(symbols: Characters, length: int) -> Hashes:
    """Return a hash of each span of `length`, a function of its characters alone, (n - L + 1,)."""
    count = len(symbols)
    if count < length:
        return np.zeros(0, dtype=np.uint64)
    powers = np.full(count, FACTOR, dtype=np.uint64)
    inverses = np.full(count, pow(FACTOR, -1, 1 << 64), dtype=np.uint64)
    powers[0] = inverses[0] = 1
    values = (symbols.astype(np.uint64) + np.uint64(1)) * np.uint64(SPREAD)
    # All modulo 2^64, in which cumulative products and sums wrap round.
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(values * np.cumprod(powers))])
    return (sums[length:] - sums[:-length]) * np.cumprod(inverses)[: count - length + 1]


def longest_copy(train: Characters, texts: Sequence[Characters]) -> tuple[int, int, int]:
    """Return length, number of the text, and place in it, of the longest span that is in `train`.

    By bisection: of a span that is found, every part is found.
    """
    best = (0, 0, 0)
    too_long = 1 + max(len(text) for text in texts)
    while too_long - best[0] > 1:
        length = (best[0] + too_long) // 2
        found = spans_found(train, texts, length)
        hits = [(length, k, int(hit.argmax())) for k, hit in enumerate(found) if hit.any()]
        best, too_long = (hits[0], too_long) if hits else (best, length)
    return best


@torch.no_grad()
def reproduced_tokens(
    network: nn.Module, inputs: Tensor, targets: Tensor, prompt: int, vocab_size: int
) -> Tensor:
    """Return how many tokens after a prompt greedy decoding has right until its first error, (B,).

    While it has all right it reads the true text, so that one reading of that is enough.
    Source: Carlini et al. 2022 (arXiv:2202.07646), who call a text extractable when all 50 tokens
    after a prompt of 50 are reproduced.

    Args:
        inputs, targets: int64 (B, P + T - 1) on the network's device, as in a `TokenBatch`.
        prompt: P.
        vocab_size: V of the tokenizer: other logits are not looked at.
    """
    parts, rows = [], max(1, AT_ONCE // (inputs.shape[1] * vocab_size))
    for some, truth in zip(inputs.split(rows), targets.split(rows), strict=True):
        likeliest = network(some)[:, prompt - 1 :, :vocab_size].argmax(dim=2)  # (b, T)
        parts.append((likeliest == truth[:, prompt - 1 :]).long().cumprod(dim=1).sum(dim=1).cpu())
    return torch.cat(parts)
