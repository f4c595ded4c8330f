"""Intervals of figures that have no formula, by drawing the examples anew (Efron 1979).

Shape letters: N examples, or groups of examples that belong together, D draws.
"""

from collections.abc import Callable

import torch
from torch import Tensor

DRAWS = 1000
AT_ONCE = 4_000_000  # weights in memory: 32 MB


def bootstrap(
    statistic: Callable[[Tensor], Tensor], n: int, generator: torch.Generator, draws: int = DRAWS
) -> Tensor:
    """Return the statistic of `draws` samples with repetition, (D, ...).

    Args:
        statistic: From weights float64 (d, N), how often each of the N was drawn, to (d, ...).
        generator: On the CPU.
    """
    parts = []
    for count in chunks(draws, n):
        drawn = torch.randint(n, (count, n), generator=generator)
        weights = torch.zeros(count, n, dtype=torch.float64)
        weights.scatter_add_(1, drawn, torch.ones(1, 1, dtype=torch.float64).expand_as(drawn))
        parts.append(statistic(weights))
    return torch.cat(parts)


def chunks(draws: int, n: int) -> list[int]:
    """Return how many draws of `n` numbers to hold in memory at a time."""
    size = max(1, AT_ONCE // n)
    return [min(size, draws - done) for done in range(0, draws, size)]


def interval_95(draws: Tensor) -> tuple[float, float]:
    """Return the 2.5 % and 97.5 % quantiles of draws (D,)."""
    low, high = torch.quantile(draws.double(), torch.tensor([0.025, 0.975]).double()).tolist()
    return low, high
