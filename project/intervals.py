"""Intervals for figures measured on a finite sample."""

import math
import statistics
from collections.abc import Sequence

Z_95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return the 95 % interval of a probability, each end in [0, 1].

    Source: Wilson 1927; unlike the normal approximation it holds near 0 and 1.

    Raises:
        ValueError: If there are no trials or more successes than trials.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"{successes} successes of {trials} trials give no interval")
    from scipy.stats import binomtest  # half a second: not needed to compare runs

    interval = binomtest(successes, trials).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def mean_interval(sums: Sequence[float], counts: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of sum(sums) / sum(counts), None for fewer than two groups.

    Groups, such as windows of a text, are drawn and not single counts; neighbours are taken as
    independent. Normal approximation of the ratio estimator (Cochran 1977, section 6.3).

    Args:
        sums: Of each group, (n,).
        counts: Of each group, above 0, (n,).
    """
    groups = len(sums)
    if groups < 2:
        return None
    mean = sum(sums) / sum(counts)
    squares = sum((s - mean * c) ** 2 for s, c in zip(sums, counts, strict=True))
    mean_count = sum(counts) / groups
    spread = Z_95 * math.sqrt(squares / (groups * (groups - 1))) / mean_count
    return mean - spread, mean + spread


def seed_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean over seeds, by Student's t; None of a single value.

    It holds for other seeds of the same recipe on the same data, not for other data. Folds share
    most of their training images, so that over folds it is too narrow (Bengio & Grandvalet 2004).
    """
    n = len(values)
    if n < 2:
        return None
    from scipy.special import stdtrit

    spread = float(stdtrit(n - 1, 0.975)) * statistics.stdev(values) / math.sqrt(n)
    mean = statistics.fmean(values)
    return mean - spread, mean + spread
