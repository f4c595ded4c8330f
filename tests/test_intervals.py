"""Intervals of shares and of means."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from project.intervals import mean_interval, wilson_interval


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [(9970, 10_000, 0.99572, 0.99790), (9979, 10_000, 0.99679, 0.99863), (0, 10, 0.0, 0.2775)],
)
def test_wilson_interval_equals_published_values(right, count, low, high) -> None:
    assert wilson_interval(right, count) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_holds_the_share_and_mirrors(counts) -> None:
    right, count = counts
    low, high = wilson_interval(right, count)
    assert 0 <= low <= right / count <= high <= 1
    mirrored = wilson_interval(count - right, count)
    assert mirrored == pytest.approx((1 - high, 1 - low))


def test_no_trials_give_no_interval() -> None:
    with pytest.raises(ValueError, match="0 trials"):
        wilson_interval(0, 0)


def test_interval_of_a_mean_holds_it_19_times_in_20() -> None:
    numbers = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        counts = numbers.integers(5, 50, 40)
        sums = numbers.gamma(counts, 2.0)  # of `counts` draws whose mean is 2
        interval = mean_interval(sums.tolist(), counts.tolist())
        assert interval is not None
        held += interval[0] <= 2.0 <= interval[1]
    assert 920 <= held <= 970


def test_interval_of_a_mean_needs_two_groups() -> None:
    assert mean_interval([3.0], [2]) is None
