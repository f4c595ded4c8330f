"""Does a text stand in another one, and does a language model repeat what it was trained on?

Shape letters: m bytes of a piece of the training text, n of another, L of a span, B prompts,
T tokens, P of a prompt.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Bytes = NDArray[np.uint8]
Hashes = NDArray[np.uint64]
AT_ONCE = 1 << 24  # logits in memory: 64 MB
FACTOR = 0x9E3779B97F4A7C15  # odd, so that one can divide by it modulo 2^64
SPREAD = 0xD6E8FEB86659FD93  # so that near bytes have far values
TABLE_BITS = 24  # of the table that rules out nearly all spans
SHIFT = np.uint64(64 - TABLE_BITS)


def spans_found(
    train: Iterable[Bytes], texts: Sequence[Bytes], length: int
) -> list[NDArray[np.bool_]]:
    """Return for each text whether its span of `length` from each place is in `train`.

    Each (n - L + 1,), empty for a text that is shorter. Spans are compared by a 64-bit rolling
    hash (Karp & Rabin 1987): among 10^6 spans and 10^9 places, one search in 20,000 finds a span
    that is not there.

    Args:
        train: In pieces (m,) that join without a gap.
    """
    hashes = [span_hashes(text, length) for text in texts]
    wanted, group = np.unique(np.concatenate(hashes), return_inverse=True)
    is_possible = np.zeros(1 << TABLE_BITS, dtype=bool)
    is_possible[wanted >> SHIFT] = True
    found = np.zeros(len(wanted), dtype=bool)
    before = np.zeros(0, np.uint8)  # the end of the piece before
    for piece in train:
        here = np.concatenate([before, piece])
        before = here[max(len(here) - length + 1, 0) :]
        there = span_hashes(here, length)
        there = there[is_possible[there >> SHIFT]]
        number = np.searchsorted(wanted, there).clip(max=len(wanted) - 1)
        found[number[wanted[number] == there]] = True
    return np.split(found[group], np.cumsum([len(h) for h in hashes])[:-1])


def copied_bytes(
    train: Iterable[Bytes], texts: Sequence[Bytes], length: int
) -> list[NDArray[np.bool_]]:
    """Return for each text (n,) whether each byte lies in a span of `length` that is in `train`."""
    copied = []
    for text, found in zip(texts, spans_found(train, texts, length), strict=True):
        starts = np.zeros(len(text) + 1, dtype=np.int64)
        places = np.flatnonzero(found)
        np.add.at(starts, places, 1)
        np.add.at(starts, places + length, -1)
        copied.append(starts.cumsum()[:-1] > 0)
    return copied


def span_hashes(symbols: Bytes, length: int) -> Hashes:
    """Return a hash of each span of `length`, a function of its bytes alone, (n - L + 1,)."""
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


def longest_copy(train: Sequence[Bytes], texts: Sequence[Bytes]) -> tuple[int, int, int]:
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
