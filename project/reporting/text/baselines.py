"""How well a text is predicted without a neural network: by counting, and by a compressor.

Shape letters: N training tokens, n tokens to predict, V vocabulary.
"""

import lzma

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.integer]
Floats = NDArray[np.float64]


def ngram_losses(train: Tokens, test: Tokens, vocab_size: int, order: int) -> Floats:
    """Return the loss of each token of `test` by n-grams of each length, nats (order, n).

    Row m - 1 predicts from the m - 1 tokens before; at the start of `test` from those that there
    are. A long history lends to the shorter one within it what it has not seen, and the shortest
    to all V alike, so that the probabilities of all tokens sum to 1.
    Source: Witten & Bell 1991, interpolated (Chen & Goodman 1999, section 2.5): with c(h, w)
    occurrences of w after h, c(h) of h, and t(h) different tokens after it,
    p(w | h) = (c(h, w) + t(h) p(w | shorter h)) / (c(h) + t(h)).
    """
    both = np.concatenate([train, test]).astype(np.int64)
    n_train = len(train)
    # A number for each history that ends before a token; -1 where the text has not begun.
    histories = np.zeros(len(both), dtype=np.int64)
    known = np.full(len(test), 1 / vocab_size)
    losses = np.empty((order, len(test)))
    for m in range(order):
        pairs = histories * vocab_size + both
        is_complete = np.ones(len(both), dtype=bool)
        is_complete[:m] = is_complete[n_train : n_train + m] = False  # histories of length m
        counted = np.flatnonzero(is_complete[:n_train])
        seen, count = np.unique(pairs[counted], return_counts=True)  # (h, w)
        heads, first, kinds = np.unique(seen // vocab_size, return_index=True, return_counts=True)
        totals = np.add.reduceat(count, first) if len(first) else count
        c_pair = look_up(pairs[n_train:], seen, count)
        c_head = look_up(histories[n_train:], heads, totals)
        t_head = look_up(histories[n_train:], heads, kinds)
        longer = (c_pair + t_head * known) / np.maximum(c_head + t_head, 1)
        known = np.where(is_complete[n_train:] & (c_head > 0), longer, known)
        losses[m] = -np.log(known)
        # The history of length m + 1 before a token: that of length m before the token before it,
        # and that token.
        histories = np.concatenate([[0], np.unique(pairs, return_inverse=True)[1][:-1]])
    return losses


def look_up(wanted: Tokens, keys: Tokens, values: Tokens) -> Floats:
    """Return the value of each wanted key among sorted ones, 0 where it is not there."""
    if len(keys) == 0:
        return np.zeros(len(wanted))
    places = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0).astype(np.float64)


def compressed_bits(train: bytes, test: bytes) -> float:
    """Return the bits that LZMA needs for a byte of `test` after `train`.

    The size of both together less that of `train`: what a reader of the training text still has
    to be told.
    """
    both, first = (len(lzma.compress(text)) for text in (train + test, train))
    return 8 * (both - first) / len(test)
