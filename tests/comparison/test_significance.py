"""Intervals and tests against independent references, and on data whose truth is known."""

import numpy as np
import pytest
from scipy import stats

from project.comparison import significance
from project.comparison.significance import (
    block_means,
    holm,
    mcnemar,
    paired,
)
from project.intervals import seed_interval


def classifiers(only_first: int, only_second: int, both: int, neither: int):
    """Return what two classifiers have right, shuffled, with these counts."""
    counts = (only_first, only_second, both, neither)
    first = np.repeat([True, False, True, False], counts)
    second = np.repeat([False, True, True, False], counts)
    order = np.random.default_rng(0).permutation(len(first))
    return first[order], second[order]


@pytest.mark.parametrize("only_first", [0, 1, 3, 12, 400])
@pytest.mark.parametrize("only_second", [0, 2, 3, 25, 391])
def test_mcnemar_is_the_exact_binomial_test(only_first, only_second) -> None:
    found = mcnemar(*classifiers(only_first, only_second, 500, 60))
    n = only_first + only_second
    wanted = stats.binomtest(only_first, n).pvalue if n else 1.0
    assert found.p_value == pytest.approx(wanted, rel=1e-9)
    assert found.difference == (only_first - only_second) / (n + 560)


def test_mcnemar_gives_what_a_textbook_does() -> None:
    # Agresti, Categorical Data Analysis, 10.1: approval in two surveys of the same 1,600 people.
    found = mcnemar(*classifiers(150, 86, 794, 570))
    assert found.p_value == pytest.approx(3.716e-05, rel=1e-3)
    assert found.difference == 0.04
    assert found.interval == pytest.approx((0.02, 0.06), abs=2e-3)


def test_interval_of_mcnemar_adds_one_to_each_kind_of_disagreement() -> None:
    low, high = mcnemar(*classifiers(9, 0, 20, 1)).interval  # of 30
    a, b = 10 / 32, 1 / 32
    spread = 1.96 * ((a + b - (a - b) ** 2) / 32) ** 0.5
    assert (low, high) == pytest.approx((a - b - spread, a - b + spread), abs=1e-4)


@pytest.mark.parametrize("shares", [(0.02, 0.02), (0.08, 0.03), (0.2, 0.1)])
def test_interval_of_mcnemar_holds_the_difference_19_times_in_20(shares) -> None:
    numbers = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        kinds = numbers.choice(4, 300, p=[*shares, 0.5, 0.5 - sum(shares)])
        low, high = mcnemar((kinds == 0) | (kinds == 2), (kinds == 1) | (kinds == 2)).interval
        held += low <= shares[0] - shares[1] <= high
    assert 930 <= held <= 990


def test_mcnemar_finds_a_difference_in_no_more_than_one_of_twenty_equal_pairs() -> None:
    numbers = np.random.default_rng(0)
    alarms = 0
    for _ in range(1000):
        first, second = numbers.random((2, 400)) < 0.9
        alarms += mcnemar(first, second).p_value < 0.05
    assert 15 <= alarms <= 60  # an exact test stays below 5 %


@pytest.mark.parametrize("values", [[0.97, 0.98], [0.9, 0.91, 0.93, 0.95, 0.9]])
def test_interval_over_seeds_is_students(values) -> None:
    error = stats.sem(values)
    wanted = stats.t.interval(0.95, len(values) - 1, np.mean(values), error)
    assert seed_interval(values) == pytest.approx(wanted, rel=1e-9)


def test_interval_over_seeds_holds_the_mean_19_times_in_20_and_needs_two() -> None:
    numbers = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        low, high = seed_interval(numbers.normal(3.0, 0.2, 3).tolist())
        held += low <= 3.0 <= high
    assert 930 <= held <= 970
    assert seed_interval([1.0]) is None


def pair(numbers: np.random.Generator, seeds: int, effect: float = 0.0, deviation: float = 0.0):
    """Return the scores of two recipes on the same 200 examples, (seeds, 200) each.

    Examples differ in how hard they are, by 1, and recipes in what they find hard, by 0.5. Seeds
    differ by `deviation`; the mean of 200 examples by 0.5 * sqrt(2 / 200) = 0.05.
    """
    hard = numbers.normal(size=200)
    scores = []
    for better in (effect, 0.0):
        recipe = hard + 0.5 * numbers.normal(size=200) + better
        scores.append(recipe + deviation * numbers.normal(size=(seeds, 1)))
    return scores


def false_alarms(seeds: tuple[int, int], deviation: float, trials: int = 400) -> float:
    numbers = np.random.default_rng(0)
    found = []
    for _ in range(trials):
        first, second = pair(numbers, max(seeds), deviation=deviation)
        found.append(paired(first[: seeds[0]], second[: seeds[1]], "examples"))
    held = np.mean([one.interval[0] <= 0 <= one.interval[1] for one in found])
    alarms = float(np.mean([one.p_value < 0.05 for one in found]))
    assert alarms == pytest.approx(1 - held, abs=0.02)  # interval and p-value say the same
    return alarms


@pytest.mark.parametrize("seeds", [(1, 1), (1, 3), (1, 5), (2, 2), (2, 5), (3, 3), (5, 5)])
@pytest.mark.parametrize("deviation", [0.0, 0.05, 0.2])
def test_equal_recipes_are_told_apart_in_about_one_of_twenty_cases(
    seeds, deviation, monkeypatch
) -> None:
    """Whether examples or seeds make the difference, also where one has a single run."""
    monkeypatch.setattr(significance, "RESAMPLES", 400)
    if seeds == (1, 1):
        deviation = 0.0  # of two runs it says nothing about other seeds
    assert 0.01 <= false_alarms(seeds, deviation) <= 0.085


def test_a_real_difference_is_found_whichever_is_first() -> None:
    numbers = np.random.default_rng(0)
    first, second = pair(numbers, seeds=3, effect=0.3, deviation=0.02)
    found = paired(first, second, "examples")
    assert found.p_value < 0.01
    assert found.difference == pytest.approx(first.mean() - second.mean())
    assert 0 < found.interval[0] < found.difference < found.interval[1]
    turned = paired(second, first, "examples")
    assert turned.p_value == pytest.approx(found.p_value)
    assert turned.interval[1] < 0
    assert "200 examples and 3 x 3 runs" in found.method


def test_with_equal_examples_it_is_students_test_of_the_seeds() -> None:
    numbers = np.random.default_rng(0)
    means = numbers.normal(size=4), numbers.normal(size=3)
    found = paired(*(np.repeat(m[:, None], 9, axis=1) for m in means), "examples")
    assert found.p_value == pytest.approx(stats.ttest_ind(*means).pvalue)


def test_examples_are_paired() -> None:
    """What both find hard does not count: the same scores, one of them a little better."""
    hard = 10 * np.random.default_rng(0).normal(size=(1, 200))
    small = 0.01 * np.random.default_rng(1).normal(size=(1, 200))
    assert paired(hard + 0.01 + small, hard, "examples").p_value < 0.05
    two = np.concatenate([hard, hard])
    assert paired(two + 0.01 + small, two, "examples").p_value < 0.05
    assert stats.ttest_ind((hard + 0.01 + small)[0], hard[0]).pvalue > 0.9


def test_bootstrap_of_one_pair_is_as_wide_as_the_normal_approximation() -> None:
    first, second = pair(np.random.default_rng(0), seeds=1, effect=0.1)
    low, high = paired(first, second, "examples").interval
    assert high - low == pytest.approx(2 * 1.96 * stats.sem((first - second)[0]), rel=0.06)


def test_the_same_answer_twice_and_none_for_the_same_model() -> None:
    first, second = pair(np.random.default_rng(0), seeds=2)
    assert paired(first, second, "examples") == paired(first, second, "examples")
    for same in (first[:1], first):
        found = paired(same, same, "examples")
        assert found.difference == 0
        assert found.p_value == 1.0


def test_holm_gives_the_worked_example() -> None:
    # Wikipedia, "Holm-Bonferroni method": 0.01, 0.04, 0.03, 0.005 at 5 %: the first and the fourth.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_holm_keeps_the_order_and_never_lowers_a_p_value() -> None:
    numbers = np.random.default_rng(0)
    for _ in range(50):
        p_values = numbers.random(6).tolist()
        adjusted = holm(p_values)
        pairs = sorted(zip(p_values, adjusted, strict=True))
        assert all(p <= a <= min(1.0, 6 * p) + 1e-12 for p, a in pairs)
        assert [a for _, a in pairs] == sorted(adjusted)


@pytest.mark.parametrize(
    ("tokens", "size"), [(256 * 60 + 3, 256), (256 * 50, 256), (5_049, 100), (49, 1)]
)
def test_blocks_are_of_neighbours_and_at_least_fifty_where_there_are_as_many(tokens, size) -> None:
    losses = np.random.default_rng(0).random((2, tokens))
    means = block_means(losses)
    assert means.shape == (2, tokens // size)
    np.testing.assert_allclose(means[1, 0], losses[1, :size].mean())
    np.testing.assert_allclose(means[0, 1], losses[0, size : 2 * size].mean())
    whole = losses[:, : tokens - tokens % size]
    np.testing.assert_allclose(means.mean(axis=1), whole.mean(axis=1))


def test_blocks_keep_the_false_alarms_of_a_text_near_one_in_twenty() -> None:
    """Neighbouring tokens are alike; taken as independent they are sure far too often."""
    numbers = np.random.default_rng(0)
    alarms = {"blocks": 0, "tokens": 0}
    for _ in range(200):
        noise = numbers.normal(size=(2, 1, 6_000 + 20))
        alike = np.stack([np.convolve(row[0], np.ones(21) / 21, "valid") for row in noise])
        for name, (first, second) in {
            "blocks": [block_means(row[None]) for row in alike],
            "tokens": [row[None] for row in alike],
        }.items():
            difference = (first - second)[0]
            alarms[name] += abs(difference.mean()) > 1.96 * stats.sem(difference)
    assert alarms["blocks"] <= 22
    assert alarms["tokens"] > 100
