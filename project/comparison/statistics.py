"""How sure one may be of a mean over seeds, and that one model is better than another."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, stdtrit

from project.training.intervals import Z_95

Floats = NDArray[np.float64]
RESAMPLES = 2_000
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


def seed_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean over seeds, by Student's t; None of a single value.

    It holds for other seeds of the same recipe on the same data, not for other data. Folds share
    most of their training images, so that over folds it is too narrow (Bengio & Grandvalet 2004).
    """
    n = len(values)
    if n < 2:
        return None
    spread = float(stdtrit(n - 1, 0.975)) * statistics.stdev(values) / math.sqrt(n)
    mean = statistics.fmean(values)
    return mean - spread, mean + spread


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
        f"McNemar's exact test on {n:,} images: {only_first} only the first has right, "
        f"{only_second} only the other",
    )


def paired_bootstrap(first: Floats, second: Floats, unit: str) -> Comparison:
    """Compare two models by the scores of the same examples, over the seeds of both.

    Examples are drawn anew, the same for both, and so are the seeds of each (Efron 1979). With a
    single seed each, the answer is about these two runs and not about their recipes; with two or
    three, and seeds that matter more than examples, it is sure too soon (1 time in 10, not in 20).

    Args:
        first, second: Scores, more is better, (seeds, n); the seeds need not be as many.
        unit: What an example is, in words.
    """
    generator = np.random.default_rng(0)
    n = first.shape[1]
    differences: list[Floats] = []
    for _ in range(RESAMPLES // CHUNK):
        drawn = generator.integers(0, n, (CHUNK, n))
        weights = np.stack([np.bincount(row, minlength=n) for row in drawn]) / n  # (CHUNK, n)
        means = []
        for scores in (first, second):
            by_seed = weights @ scores.T  # (CHUNK, seeds)
            k = len(scores)
            drawn_seeds = generator.integers(0, k, by_seed.shape)
            mean = by_seed.mean(axis=1)
            of_drawn = np.take_along_axis(by_seed, drawn_seeds, axis=1).mean(axis=1)
            # Of k seeds that were drawn, means vary too little, by (k - 1) / k in variance.
            means.append(mean + math.sqrt(k / max(1, k - 1)) * (of_drawn - mean))
        differences.append(means[0] - means[1])
    found = np.concatenate(differences)  # (RESAMPLES,)
    low, high = np.quantile(found, [0.025, 0.975])
    tail = 1 + min(int((found <= 0).sum()), int((found >= 0).sum()))
    runs = f" and {len(first)} x {len(second)} runs" if len(first) + len(second) > 2 else ""
    return Comparison(
        float(first.mean() - second.mean()),
        (float(low), float(high)),
        min(1.0, 2 * tail / (RESAMPLES + 1)),
        f"paired bootstrap over {n:,} {unit}{runs}",
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
