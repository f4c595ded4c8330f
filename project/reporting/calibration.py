"""Can the confidence of a classifier be taken at its word?

The confidence is the probability of the predicted class. Everything is computed in float64.

Shape letters: N examples, K classes (of a language model, its vocabulary), M bins, D draws.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from project.intervals import Z_95, wilson_interval
from project.reporting.bootstrap import DRAWS, bootstrap, chunks, interval_95
from project.reporting.drawing import as_png, panels

BINS = 15  # of Guo et al. 2017
COLDEST, HOTTEST = 0.05, 20.0  # temperatures that are looked at
AT_ONCE = 1 << 24  # logits that are taken to float64: 128 MB


class Verdicts(NamedTuple):
    """What a classifier said of each example, and how wrong that was.

    Attributes:
        confidence: Probability of the predicted class, float64 (N,).
        right: Whether that class is the true one, float64 (N,).
        losses: Negative log-likelihood, nats, float64 (N,).
        brier: Squared distance of the probabilities from the truth, in [0, 2], float64 (N,).
    """

    confidence: Tensor
    right: Tensor
    losses: Tensor
    brier: Tensor


def verdicts(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> Verdicts:
    """Return what logits (N, K), divided by a temperature, say of examples with labels (N,)."""
    parts, rows = [], max(1, AT_ONCE // logits.shape[1])
    for some, truth in zip(logits.split(rows), labels.split(rows), strict=True):
        log_shares = (some.double() / temperature).log_softmax(dim=1)
        shares = log_shares.exp()
        confidence, predicted = shares.max(dim=1)
        of_truth = log_shares.gather(1, truth[:, None])[:, 0]
        # |p - e|^2 = |p|^2 - 2 p_true + 1
        brier = shares.square().sum(dim=1) - 2 * of_truth.exp() + 1
        parts.append((confidence, (predicted == truth).double(), -of_truth, brier))
    return Verdicts(*(torch.cat(column) for column in zip(*parts, strict=True)))


def equal_width(confidence: Tensor, bins: int = BINS) -> Tensor:
    """Return the bin of each confidence, int64 (N,): bin m holds (m / M, (m + 1) / M]."""
    return (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)


def equal_mass(confidence: Tensor, bins: int = BINS) -> Tensor:
    """Return the bin of each confidence, int64 (N,): as many examples in each, give or take one."""
    n = len(confidence)
    ranks = torch.empty(n, dtype=torch.int64)
    ranks[confidence.argsort(stable=True)] = torch.arange(n)
    return ranks * bins // n


def gap_table(confidence: Tensor, right: Tensor, bin_of: Tensor, bins: int = BINS) -> Tensor:
    """Return right - confidence of each example in the column of its bin, float64 (N, M)."""
    table = torch.zeros(len(confidence), bins, dtype=torch.float64)
    table[torch.arange(len(confidence)), bin_of] = right.double() - confidence.double()
    return table


def calibration_error(confidence: Tensor, right: Tensor, bin_of: Tensor | None = None) -> float:
    """Return the expected calibration error (ECE), a share.

    The distance of accuracy from confidence in each bin, weighted by the examples in it.
    Source: Naeini et al. 2015; Guo et al. 2017 (arXiv:1706.04599), whose 15 bins of equal width
    are the default. Always above 0 at finite N: compare it with `errors_by_chance`.

    Args:
        confidence, right: (N,).
        bin_of: int64 (N,) in [0, 15).
    """
    bin_of = equal_width(confidence) if bin_of is None else bin_of
    gaps = torch.zeros(BINS, dtype=torch.float64)
    gaps.index_add_(0, bin_of, right.double() - confidence.double())
    return gaps.abs().sum().item() / len(confidence)


def errors_by_chance(
    confidence: Tensor, bin_of: Tensor, generator: torch.Generator, draws: int = DRAWS
) -> Tensor:
    """Return the ECE that perfectly calibrated predictions of these confidences show, (D,).

    Each prediction is right with the probability that it states. Also for the tokens of a text:
    where every probability is the true one given the past, the gaps of different tokens are
    uncorrelated.
    """
    order = bin_of.argsort()
    sizes = torch.bincount(bin_of, minlength=BINS)
    confidence, ends = confidence[order].double(), sizes.cumsum(0)
    stated = torch.zeros(BINS, dtype=torch.float64).index_add_(0, bin_of[order], confidence)
    parts = []
    for count in chunks(draws, len(confidence)):
        drawn = torch.rand(count, len(confidence), generator=generator, dtype=torch.float64)
        right = torch.cat([torch.zeros(count, 1), (drawn < confidence).cumsum(dim=1)], dim=1)
        in_bins = right[:, ends] - right[:, ends - sizes]
        parts.append((in_bins - stated).abs().sum(dim=1) / len(confidence))
    return torch.cat(parts)


def scores_resampled(
    of: list[Verdicts], groups: Tensor, generator: torch.Generator, draws: int = DRAWS
) -> Tensor:
    """Return scores of examples drawn anew, the same for each of several models, (D, models, 6).

    The scores are accuracy, mean confidence, ECE of equal width, ECE of equal mass (in the bins
    of the whole), loss and Brier score. For the interval of an ECE see `error_interval`.

    Args:
        of: Of the same examples.
        groups: Number of the group of each example, int64 (N,): groups are drawn whole.
    """
    count = int(groups.max()) + 1
    columns = [torch.ones(len(groups), 1, dtype=torch.float64)]
    for each in of:
        plain = torch.stack([each.right, each.confidence, each.losses, each.brier], dim=1)
        bins = [equal_width(each.confidence), equal_mass(each.confidence)]
        columns += [plain, *(gap_table(each.confidence, each.right, bin_of) for bin_of in bins)]
    table = torch.cat(columns, dim=1)
    if count < len(groups):
        sums = torch.zeros(count, table.shape[1], dtype=torch.float64)
        table = sums.index_add_(0, groups, table)

    def scores(weights: Tensor) -> Tensor:
        sums = weights @ table
        means = sums[:, 1:] / sums[:, :1]
        models = means.view(len(sums), len(of), 4 + 2 * BINS)
        right, confidence, loss, brier = models[..., :4].unbind(dim=2)
        errors = models[..., 4:].abs().unflatten(2, (2, BINS)).sum(dim=3)  # (d, models, 2)
        return torch.stack([right, confidence, errors[..., 0], errors[..., 1], loss, brier], dim=2)

    return bootstrap(scores, count, generator, draws)


def error_interval(error: float, drawn: Tensor, by_chance: Tensor) -> tuple[float, float]:
    """Return the 95 % interval of an ECE, which contains it.

    The ECE is biased upwards, and that of a resample once more: quantiles of resamples miss a
    small true value nearly always. Turned round the estimate (the basic bootstrap) they held it in
    86 to 93 % of simulations with 300 to 5,000 examples, but for a true 0; so the interval begins
    at 0 where chance explains the estimate.

    Args:
        drawn: Of resamples, (D,).
        by_chance: Of `errors_by_chance`, (D,).
    """
    low, high = interval_95(drawn)
    low, high = max(0.0, 2 * error - high), 2 * error - low
    if error <= by_chance.quantile(0.95).item():
        low = 0.0
    return min(error, low), max(error, high)


class Temperature(NamedTuple):
    """By what to divide logits, with its 95 % interval and the examples it was fitted on."""

    value: float
    interval_95: tuple[float, float]
    n: int


def fit_temperature(
    logits: Tensor, labels: Tensor, groups: Tensor | None = None
) -> Temperature | None:
    """Return the temperature of least negative log-likelihood; None where there is none.

    That is where every prediction is right: the likelihood then rises for ever as T falls to 0.
    Source: Guo et al. 2017. The loss is convex in 1 / T, so that Newton's steps, kept within a
    bracket, find it. The interval is that of an M-estimator (Huber 1967).

    Args:
        logits: Float (N, K), of examples that were not trained on.
        labels: int64 (N,).
        groups: Number of the group of each example, int64 (N,), where those of one group are not
            independent, such as the tokens of a window.
    """
    if bool((logits.argmax(dim=1) == labels).all()):
        return None
    inverse, low, high = 1.0, 1 / HOTTEST, 1 / COLDEST
    for _ in range(60):
        slopes, curvature = slopes_of_loss(logits, labels, inverse)
        slope = slopes.mean().item()
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        step = inverse - slope / curvature if curvature > 0 else 0.0
        following = step if low < step < high else (low * high) ** 0.5
        change, inverse = abs(following - inverse), following
        if change < 1e-9 * inverse:
            break
    slopes, curvature = slopes_of_loss(logits, labels, inverse)
    if groups is not None:
        slopes = torch.zeros(int(groups.max()) + 1).double().index_add_(0, groups, slopes)
    error = slopes.square().sum().sqrt().item() / len(labels) / max(curvature, 1e-12)  # of 1 / T
    scale = math.exp(min(Z_95 * error / inverse, 50.0))
    return Temperature(1 / inverse, (1 / inverse / scale, scale / inverse), len(labels))


def slopes_of_loss(logits: Tensor, labels: Tensor, inverse: float) -> tuple[Tensor, float]:
    """Return derivatives by 1 / T of the losses at logits / T: of each, (N,); the second's mean."""
    slopes, curvature, rows = [], 0.0, max(1, AT_ONCE // logits.shape[1])
    for some, truth in zip(logits.split(rows), labels.split(rows), strict=True):
        some = some.double()
        shares = (inverse * some).softmax(dim=1)
        mean = (shares * some).sum(dim=1)
        curvature += (shares * (some - mean[:, None]).square()).sum().item()
        slopes.append(mean - some.gather(1, truth[:, None])[:, 0])
    return torch.cat(slopes), curvature / len(labels)


def reliability_picture(before: Verdicts, after: Verdicts | None, unit: str) -> bytes:
    """Return the reliability diagram, PNG: accuracy over confidence, and how many were that sure.

    Args:
        unit: What an example is, in words and in the plural.
    """
    figure, grid = panels(4.2, 4.6, rows=2, sharex=True, height_ratios=(3, 1))
    axes, below = grid[:, 0]
    axes.plot([0, 100], [0, 100], color="0.6", linewidth=1, linestyle="--", label="at its word")
    for verdict, colour, label in (
        (after, "tab:orange", "after scaling"),
        (before, "tab:blue", "as trained"),
    ):
        if verdict is not None:
            x, y, low, high = (column.numpy() for column in reliability(verdict))
            axes.errorbar(
                x, y, [y - low, high - y], fmt="o", markersize=4, linewidth=1, capsize=2,
                color=colour, label=label,
            )  # fmt: skip
    axes.set(ylabel="right, %", ylim=(-3, 103))
    axes.legend(fontsize=8, loc="lower right")
    counts = torch.bincount(equal_width(before.confidence), minlength=BINS)
    middles = (torch.arange(BINS) + 0.5) * 100 / BINS
    below.bar(middles.tolist(), counts.tolist(), width=90 / BINS, color="tab:blue")
    below.set(xlabel="confidence, %", ylabel=unit, yscale="log", xlim=(0, 101.5))
    below.set_ylim(0.7, max(10, 2 * int(counts.max())))
    return as_png(figure)


def reliability(of: Verdicts) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return, of each bin that holds any, in %: mean confidence, accuracy, its Wilson interval."""
    bin_of = equal_width(of.confidence)
    rows = []
    for m in bin_of.unique().tolist():
        right = of.right[bin_of == m]
        share = right.mean().item()
        low, high = wilson_interval(int(right.sum()), len(right))
        confidence = of.confidence[bin_of == m].mean().item()
        rows.append((confidence, share, min(low, share), max(high, share)))
    table = 100 * torch.tensor(rows, dtype=torch.float64)  # (m, 4)
    return table[:, 0], table[:, 1], table[:, 2], table[:, 3]
