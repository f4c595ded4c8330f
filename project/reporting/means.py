"""Means with their intervals, as figures of a report."""

import torch
from torch import Tensor

from project.intervals import mean_interval
from project.reporting.findings import Measure


def mean_measure(
    key: str,
    title: str,
    unit: str,
    sums: Tensor,
    counts: Tensor | None = None,
    *,
    n: int | None = None,
    seed: int | None = None,
    how: str = "normal, over windows",
) -> Measure:
    """Return sum(sums) / sum(counts) as a figure, with the 95 % interval over groups.

    Args:
        sums, counts: Of each group, such as a window, (groups,); without counts each is one. Counts
            of 0 give no interval and weigh nothing.
        n: What was measured; the groups by default.
    """
    counts = torch.ones_like(sums) if counts is None else counts
    value = (sums.double().sum() / counts.sum().clamp(min=1)).item()
    interval = mean_interval(sums.tolist(), counts.tolist()) if counts.any() else None
    how = how if interval else "a single one gives no interval"
    return Measure(key, title, value, unit, n or len(sums), interval, seed, how)
