"""Confidences whose answer is known by construction."""

import math
from pathlib import Path

import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss
from torch import Tensor
from torchmetrics.classification import MulticlassCalibrationError

from project.reporting.bootstrap import bootstrap
from project.reporting.calibration import (
    BINS,
    calibration_error,
    equal_mass,
    equal_width,
    error_interval,
    errors_by_chance,
    fit_temperature,
    gap_table,
    reliability,
    scores_resampled,
    verdicts,
)
from project.reporting.confidence import confidence_section, mark_of
from project.reporting.findings import Section


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def calibrated(n: int, num_classes: int, sharpness: float = 2.0, seed: int = 0):
    """Logits, and labels that are drawn with their very probabilities."""
    logits = sharpness * torch.randn(n, num_classes, generator=generator(seed)).double()
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=generator(seed + 1))[:, 0]
    return logits, labels


def test_always_ninety_percent_sure_and_seventy_percent_right() -> None:
    confidence = torch.full((1000,), 0.9).double()
    right = (torch.arange(1000) % 10 < 7).double()
    assert calibration_error(confidence, right) == pytest.approx(0.2)
    assert calibration_error(confidence, right, equal_mass(confidence)) == pytest.approx(
        0.2, abs=0.01
    )
    chance = errors_by_chance(confidence, equal_width(confidence), generator())
    # |right of 1,000 - 900| / 1,000: the mean distance of a binomial count from its mean.
    assert chance.mean().item() == pytest.approx(math.sqrt(2 / math.pi * 0.09 / 1000), rel=0.1)
    x, y, low, high = reliability(verdicts(torch.tensor([[0.0, math.log(9)]] * 1000), right.long()))
    assert x.item() == pytest.approx(90)
    assert y.item() == pytest.approx(70)
    assert low.item() < 70 < high.item()


def test_gaps_of_two_bins_do_not_cancel_and_those_of_one_do() -> None:
    confidence = torch.tensor([0.61, 0.61, 0.99, 0.99]).double()
    right = torch.tensor([1.0, 1.0, 1.0, 0.0]).double()
    assert calibration_error(confidence, right) == pytest.approx((0.39 * 2 + 0.49 * 2) / 4)
    one = torch.zeros(4, dtype=torch.int64)
    assert calibration_error(confidence, right, one) == pytest.approx(0.05)


@pytest.mark.parametrize("num_classes", [2, 5])
def test_scores_are_those_of_torchmetrics_and_sklearn(num_classes: int) -> None:
    logits, labels = calibrated(3000, num_classes, 1.5)
    labels[:400] = 0
    shares = logits.softmax(dim=1)
    of = verdicts(logits, labels)
    theirs = MulticlassCalibrationError(num_classes, n_bins=BINS, norm="l1")(shares, labels).item()
    assert calibration_error(of.confidence, of.right) == pytest.approx(theirs, abs=1e-6)
    assert of.losses.mean().item() == pytest.approx(log_loss(labels, shares.numpy()))
    classes = list(range(num_classes))
    brier = brier_score_loss(labels, shares.numpy(), labels=classes, scale_by_half=False)
    assert of.brier.mean().item() == pytest.approx(brier)


def test_bins_have_their_bounds_and_their_sizes() -> None:
    edges = torch.tensor([1 / 15, 0.07, 1.0, 0.0, 1e-9], dtype=torch.float64)
    assert equal_width(edges).tolist() == [0, 1, 14, 0, 0]
    bins = equal_mass(torch.rand(100, generator=generator()))
    assert sorted(torch.bincount(bins).tolist()) == [6] * 5 + [7] * 10


def test_large_logits_are_no_trouble() -> None:
    of = verdicts(torch.tensor([[1e4, 0.0], [0.0, 1e4]]), torch.tensor([0, 0]))
    assert of.losses.tolist() == [0.0, 1e4]
    assert of.brier.tolist() == [0.0, 2.0]


@pytest.mark.parametrize("planted", [0.5, 1.0, 2.5])
def test_temperature_recovers_a_planted_one(planted: float) -> None:
    logits, labels = calibrated(20_000, 4)
    found = fit_temperature(planted * logits, labels)
    assert found is not None
    assert found.value == pytest.approx(planted, rel=0.05)
    low, high = found.interval_95
    assert low < planted < high
    assert high / low < 1.1
    # No other temperature has a lower loss.
    best = verdicts(planted * logits, labels, found.value).losses.mean()
    for other in (0.99, 1.01):
        assert verdicts(planted * logits, labels, other * found.value).losses.mean() > best


def test_interval_of_the_temperature_holds_as_often_as_it_says() -> None:
    held = 0
    for seed in range(100):
        logits, labels = calibrated(300, 3, seed=2 * seed)
        found = fit_temperature(2 * logits, labels)
        assert found is not None
        held += found.interval_95[0] <= 2 <= found.interval_95[1]
    assert 88 <= held <= 100


def test_tokens_of_a_window_count_as_one_where_they_are_the_same() -> None:
    logits, labels = calibrated(200, 3)
    alone = fit_temperature(logits, labels)
    repeated = fit_temperature(
        logits.repeat_interleave(9, 0), labels.repeat_interleave(9),
        torch.arange(200).repeat_interleave(9),
    )  # fmt: skip
    assert alone is not None
    assert repeated is not None
    assert repeated.interval_95 == pytest.approx(alone.interval_95)


def test_no_temperature_where_nothing_is_wrong() -> None:
    logits = torch.eye(3).repeat(5, 1)
    assert fit_temperature(logits, logits.argmax(dim=1)) is None


def test_a_hopeless_model_gets_a_finite_temperature() -> None:
    logits, labels = torch.tensor([[3.0, 0.0]] * 50), torch.ones(50, dtype=torch.int64)
    found = fit_temperature(logits, labels)
    assert found is not None
    assert 10 < found.value < 21


def test_error_of_a_calibrated_model_is_what_chance_shows() -> None:
    """And its interval, which begins at 0, holds the truth."""
    inside, below = 0, 0
    for seed in range(60):
        of = verdicts(*calibrated(500, 3, seed=2 * seed))
        error = calibration_error(of.confidence, of.right)
        chance = errors_by_chance(of.confidence, equal_width(of.confidence), generator(seed), 200)
        inside += error <= chance.quantile(0.95).item()
        table = gap_table(of.confidence, of.right, equal_width(of.confidence))
        drawn = bootstrap(lambda w, t=table: (w @ t).abs().sum(dim=1) / 500, 500, generator(), 100)
        low, high = error_interval(error, drawn, chance)
        below += low == 0.0
        assert low <= error <= high
    assert inside >= 52
    assert below == inside


def test_resamples_are_of_the_whole_and_the_same_for_both_models() -> None:
    of = verdicts(*calibrated(400, 3))
    drawn = scores_resampled([of, of], torch.arange(400), generator())
    assert drawn.shape == (1000, 2, 6)
    assert torch.allclose(drawn[:, 0], drawn[:, 1])
    means = drawn[:, 0].mean(dim=0).tolist()
    truth = [of.right, of.confidence, of.losses, of.brier]
    for column, values in zip((0, 1, 4, 5), truth, strict=True):
        assert means[column] == pytest.approx(values.mean().item(), rel=0.05)
        spread = drawn[:, 0, column].std().item()
        assert spread == pytest.approx(values.std().item() / 20, rel=0.15)


def test_groups_are_drawn_whole() -> None:
    of = verdicts(*calibrated(100, 3))
    nine = type(of)(*(values.repeat_interleave(9) for values in of))
    alone = scores_resampled([of], torch.arange(100), generator())
    together = scores_resampled([nine], torch.arange(100).repeat_interleave(9), generator())
    assert together[:, 0, :3].sub(alone[:, 0, :3]).abs().max() < 1e-9


def section_of(logits: Tensor, labels: Tensor) -> Section:
    of, n = verdicts(logits, labels), len(labels)
    fitted = fit_temperature(*calibrated(2000, logits.shape[1], seed=50))
    assert fitted is not None
    after = verdicts(logits, labels, fitted.value)
    return confidence_section(
        of, after, fitted, torch.arange(n), ("images", "images"), 0, generator(), []
    )


def test_section_says_what_is_planted(tmp_path: Path) -> None:
    logits, labels = calibrated(4000, 3)
    good, sure, unsure = (section_of(s * logits, labels) for s in (1.0, 3.0, 0.4))
    assert [s.mark for s in (good, sure, unsure)] == ["holds", "fails", "fails"]
    assert "at their word" in good.verdict
    assert "too high" in sure.verdict
    assert "too low" in unsure.verdict
    for section in (good, sure, unsure):
        keys = [measure.key for measure in section.measures()]
        assert len(keys) == len(set(keys))
        assert {"ece", "ece_by_chance", "nll_scaled", "brier_change", "temperature"} <= set(keys)


def test_few_examples_do_not_hold() -> None:
    logits, labels = calibrated(20, 3)
    of = verdicts(logits, labels)
    chance = errors_by_chance(of.confidence, equal_width(of.confidence), generator())
    assert mark_of(of, chance) == "caution"
    assert "too few" in section_of(logits, labels).verdict


def test_few_examples_that_are_sure_and_wrong_fail_in_words_too() -> None:
    logits = torch.tensor([[4.0, 0.0, 0.0]] * 20).double()
    section = section_of(logits, torch.ones(20, dtype=torch.int64))
    assert section.mark == "fails"
    assert "too high" in section.verdict


def test_five_images_that_are_right_by_luck_do_not_hold() -> None:
    section = section_of(torch.eye(5) * 9, torch.arange(5))
    assert section.mark == "caution"
    assert "too few" in section.verdict
