"""AUROC and FPR against scikit-learn's, and intervals against what was planted."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score, roc_curve

from project.reporting.separation import auroc, missed, resampled_interval, separation


def samples(name: str) -> tuple[np.ndarray, np.ndarray]:
    numbers = np.random.default_rng(0)
    if name == "tied":
        return numbers.integers(0, 5, 83).astype(float), numbers.integers(2, 7, 61).astype(float)
    familiar, strange = numbers.normal(size=83), numbers.normal(1, 2, size=61)
    scale = {"plain": 1, "huge": 1e6, "tiny": 1e-9}[name]
    return scale * familiar, scale * strange


@pytest.mark.parametrize("name", ["plain", "tied", "huge", "tiny"])
def test_figures_are_those_of_scikit_learn(name: str) -> None:
    familiar, strange = samples(name)
    is_strange = np.r_[np.zeros(len(familiar)), np.ones(len(strange))]
    both = np.r_[familiar, strange]
    assert auroc(familiar, strange) == pytest.approx(roc_auc_score(is_strange, both))
    assert auroc(strange, familiar) == pytest.approx(1 - auroc(familiar, strange))
    # scikit-learn's positives are to have the higher scores: here, the familiar.
    rates, kept, _ = roc_curve(1 - is_strange, -both, drop_intermediate=False)
    assert missed(familiar, strange) == pytest.approx(rates[np.argmax(kept >= 0.95 - 1e-12)])


def test_exactly_95_percent_of_the_familiar_are_kept() -> None:
    familiar = np.arange(100.0)  # those from 0 to 94 pass
    assert missed(familiar, np.array([94.0])) == 1
    assert missed(familiar, np.array([94.5])) == 0


def test_planted_separations_are_found_within_their_intervals() -> None:
    inside = 0
    for seed in range(20):
        numbers = np.random.default_rng(seed)
        familiar, strange = numbers.normal(size=400), numbers.normal(1, 1, size=300)
        low, high = resampled_interval(auroc, familiar, strange, seed, are_pairs=False)
        inside += low <= norm.cdf(1 / np.sqrt(2)) <= high
    assert inside >= 16  # of 20, expected 19


def test_pairs_are_drawn_together() -> None:
    familiar = np.random.default_rng(0).normal(size=300)
    strange = familiar + 0.3
    apart = resampled_interval(auroc, familiar, strange, 0, are_pairs=False)
    together = resampled_interval(auroc, familiar, strange, 0, are_pairs=True)
    assert together[1] - together[0] < 0.5 * (apart[1] - apart[0])


def test_a_perfect_separation_is_not_certain() -> None:
    found = separation("key", "title", np.zeros(50), np.ones(40), 3)
    assert [m.key for m in found] == ["key_auroc", "key_fpr95"]
    assert [m.value for m in found] == [1.0, 0.0]
    (low, high), (low_missed, high_missed) = (m.interval_95 for m in found)
    assert 0.85 < low < 0.95
    assert high == 1
    assert low_missed == 0
    assert 0.05 < high_missed < 0.15
    assert all(m.seed == 3 and m.n == 40 for m in found)
