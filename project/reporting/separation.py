"""How well a score tells strange examples from those that a model was made for.

Everywhere, the strange are the positives: a higher score is to mean stranger.

Shape letters: n familiar examples, m strange ones.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from project.intervals import wilson_interval
from project.reporting.findings import Measure

Scores = NDArray[np.floating[Any]]
KEPT = 0.95  # share of the familiar examples that a threshold must let pass: FPR at 95 % TPR
RESAMPLES = 400
HOLDS_AUROC = 0.95  # the least of any kind of strange examples, for "holds"
FAILS_AUROC = 0.80  # below it for any kind: "fails"


def auroc(familiar: Scores, strange: Scores) -> float:
    """Return the share of pairs in which the strange example has the higher score; ties are half.

    That is the area under the ROC curve (Mann & Whitney 1947; Hanley & McNeil 1982), by ranks, so
    that no scale of the scores matters.

    Args:
        familiar, strange: Scores (n,) and (m,).
    """
    ordered = np.sort(familiar)
    below = np.searchsorted(ordered, strange, side="left")
    not_above = np.searchsorted(ordered, strange, side="right")
    return float((below + not_above).mean() / (2 * len(ordered)))


def missed(familiar: Scores, strange: Scores) -> float:
    """Return the share of strange examples that pass where 95 % of the familiar ones do.

    Known as FPR at 95 % TPR (Hendrycks & Gimpel 2017, arXiv:1610.02136; Liang et al. 2018), with
    the familiar as the positives. The threshold is the smallest score at or below which at least
    95 % of the familiar lie.
    """
    last = int(np.ceil(KEPT * len(familiar) - 1e-9)) - 1
    return float((strange <= np.sort(familiar)[last]).mean())


def resampled_interval(
    statistic: Callable[[Scores, Scores], float],
    familiar: Scores,
    strange: Scores,
    seed: int,
    *,
    are_pairs: bool,
) -> tuple[float, float]:
    """Return the 95 % percentile interval of a statistic of both samples (Efron 1979).

    Args:
        are_pairs: Whether strange example i was made from familiar example i: they are then drawn
            together, as they are not independent.
    """
    from scipy.stats import bootstrap

    ends = bootstrap(
        (familiar, strange),
        statistic,
        n_resamples=RESAMPLES,
        batch=1,
        vectorized=False,
        paired=are_pairs,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(ends.low), float(ends.high)


def separation(
    key: str,
    title: str,
    familiar: Scores,
    strange: Scores,
    seed: int,
    *,
    are_pairs: bool = False,
) -> list[Measure]:
    """Return AUROC and the share that is missed at 95 %, with bootstrap intervals.

    Where a resample can bring nothing new, since all or none are told apart, the interval is
    Wilson's for as many independent pairs, or examples, as there are.
    """
    n, m = len(familiar), len(strange)
    pairs = min(n, m)
    found = []
    for name, what, statistic, trials in (
        ("auroc", "told apart in pairs (AUROC)", auroc, pairs),
        ("fpr95", "taken for familiar (FPR at 95 % TPR)", missed, m),
    ):
        value = statistic(familiar, strange)
        interval = resampled_interval(statistic, familiar, strange, seed, are_pairs=are_pairs)
        how = f"bootstrap, {RESAMPLES} resamples" + (" of pairs" if are_pairs else "")
        if interval[0] == interval[1] and value in (0.0, 1.0):
            interval = wilson_interval(round(value * trials), trials)
            how = "Wilson: no resample differs"
        found.append(
            Measure(f"{key}_{name}", f"{title}: {what}", value, "%", m, interval, seed, how)
        )
    return found
