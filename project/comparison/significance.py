"""How sure one may be of a mean over seeds, and that one model is better than another."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, stdtr, stdtrit

from project.intervals import Z_95

Floats = NDArray[np.float64]
RESAMPLES = 10_000
CHUNK = 100  # resamples drawn at a time
BLOCK_TOKENS = 256  # neighbours in a text are alike, so that blocks are drawn and not tokens
FEWEST_BLOCKS = 50


@dataclass(frozen=True)
class Comparison:
    """Whether the first of two models is better.

    Attributes:
        difference: By how much it is better, in the unit of `scores`.
        interval: Of that, 95 %.
        p_value: Two-sided.
        method: In words.
    """

    difference: float
    interval: tuple[float, float]
    p_value: float
    method: str


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Comparison:
    """Compare two classifiers on the same examples, by those that only one of them has right.

    The exact test (McNemar 1947, with the binomial distribution); the interval of the difference
    of accuracies is Wald's, adjusted (Bonett & Price 2012).

    Args:
        first, second: Whether each example was predicted right, (n,).
    """
    n = len(first)
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    discordant = only_first + only_second
    tail = float(bdtr(min(only_first, only_second), discordant, 0.5)) if discordant else 1.0
    a, b = (only_first + 1) / (n + 2), (only_second + 1) / (n + 2)
    spread = Z_95 * math.sqrt((a + b - (a - b) ** 2) / (n + 2))
    return Comparison(
        (only_first - only_second) / n,
        (a - b - spread, a - b + spread),
        min(1.0, 2 * tail),
        f"McNemar's exact test of these two runs on {n:,} images: {only_first} only the first "
        f"has right, {only_second} only the other",
    )


def paired(first: Floats, second: Floats, unit: str) -> Comparison:
    """Compare two models by the scores of the same examples.

    Args:
        first, second: Scores, more is better, (seeds, n); the seeds need not be as many.
        unit: What an example is, in words.
    """
    if len(first) == len(second) == 1:
        return paired_bootstrap(first[0], second[0], unit)
    return over_seeds(first, second, unit)


def paired_bootstrap(first: Floats, second: Floats, unit: str) -> Comparison:
    """Compare two runs: examples are drawn anew, the same for both (Efron 1979).

    The answer is about these two runs; other seeds of their recipes may differ from them.

    Args:
        first, second: Scores, (n,).
    """
    generator = np.random.default_rng(0)
    differences, n = first - second, len(first)
    drawn = [
        differences[generator.integers(0, n, (CHUNK, n))].mean(axis=1)
        for _ in range(RESAMPLES // CHUNK)
    ]
    found = np.concatenate(drawn)  # (RESAMPLES,)
    low, high = np.quantile(found, [0.025, 0.975])
    tail = 1 + min(int((found <= 0).sum()), int((found >= 0).sum()))
    return Comparison(
        float(differences.mean()),
        (float(low), float(high)),
        min(1.0, 2 * tail / (RESAMPLES + 1)),
        f"paired bootstrap over {n:,} {unit}, of these two runs",
    )


def over_seeds(first: Floats, second: Floats, unit: str) -> Comparison:
    """Compare two recipes by the means over their seeds, with other seeds and examples in mind.

    The variance of the difference is that of the examples, paired, plus that of the seeds, which
    both recipes are taken to share, so that a single run of one is no certainty. Student's t with
    the degrees of freedom of Satterthwaite 1946, where the examples' part is as good as known.

    Args:
        first, second: Scores, (seeds, n), three seeds or more in all.
    """
    ka, kb, n = len(first), len(second), first.shape[1]
    by_seed = [scores.mean(axis=1) for scores in (first, second)]  # (ka,), (kb,)
    difference = float(by_seed[0].mean() - by_seed[1].mean())
    of_examples = float((first.mean(axis=0) - second.mean(axis=0)).var(ddof=1)) / n
    squares = sum(float(((means - means.mean()) ** 2).sum()) for means in by_seed)
    of_seeds = squares / (ka + kb - 2) * (1 / ka + 1 / kb)
    spread = math.sqrt(of_examples + of_seeds)
    freedom = (ka + kb - 2) * ((of_examples + of_seeds) / of_seeds) ** 2 if of_seeds else math.inf
    freedom = min(freedom, 1e9)
    half = float(stdtrit(freedom, 0.975)) * spread
    tail = float(stdtr(freedom, -abs(difference) / spread)) if spread else 0.5
    return Comparison(
        difference,
        (difference - half, difference + half),
        min(1.0, 2 * tail),
        f"Student's t over {n:,} {unit} and {ka} x {kb} runs",
    )


def block_means(losses: Floats) -> Floats:
    """Return the mean loss of blocks of neighbouring tokens, (seeds, blocks), for (seeds, n).

    Of the last tokens, those that fill no block are left out.
    """
    n = losses.shape[1]
    size = max(1, min(BLOCK_TOKENS, n // FEWEST_BLOCKS))
    whole = losses[:, : n - n % size]
    return whole.reshape(len(losses), -1, size).mean(axis=2)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for as many comparisons (Holm 1979), in the order given."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
