"""Where a classifier is right and where it is not.

Shape letters: N examples, K classes, D draws.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from project.reporting.bootstrap import DRAWS, bootstrap


class Averages(NamedTuple):
    """Means over the classes, every class counted alike.

    Attributes:
        recall: Of the examples of a class, those found: balanced accuracy. (D,)
        f1: Harmonic mean of recall and precision; 0 for a class never found. (D,)
    """

    recall: Tensor
    f1: Tensor


def class_averages(
    labels: Tensor, predicted: Tensor, weights: Tensor, num_classes: int
) -> Averages:
    """Return the means over the classes that occur among weighted examples.

    Args:
        labels, predicted: int64 (N,) in [0, K).
        weights: How often each example counts, float64 (D, N).
    """

    def per_class(of: Tensor, counted: Tensor) -> Tensor:
        return torch.zeros(len(weights), num_classes).double().index_add_(1, of, counted)

    found = per_class(labels, weights * (labels == predicted))
    support, named = per_class(labels, weights), per_class(predicted, weights)  # (D, K)
    occurs = support > 0
    recall = found / support.clamp(min=1)
    f1 = 2 * found / (support + named).clamp(min=1)
    count = occurs.sum(dim=1)
    return Averages(recall.sum(dim=1) / count, (f1 * occurs).sum(dim=1) / count)


def resampled_averages(
    labels: Tensor,
    predicted: Tensor,
    num_classes: int,
    generator: torch.Generator,
    draws: int = DRAWS,
) -> Averages:
    """Return `class_averages` of examples drawn anew, (D,) each."""

    def both(weights: Tensor) -> Tensor:
        return torch.stack(class_averages(labels, predicted, weights, num_classes), dim=1)

    recall, f1 = bootstrap(both, len(labels), generator, draws).unbind(dim=1)
    return Averages(recall, f1)


def worse_than_the_rest(right: Tensor, support: Tensor) -> list[float]:
    """Return for each class the p-value that it is recognised no worse than all others together.

    Fisher's exact test, one-sided, adjusted for looking at every class (Holm 1979): one of K
    classes is always the worst.

    Args:
        right: Examples of each class that were predicted right, int64 (K,).
        support: All of them, int64 (K,).
    """
    from scipy.stats import hypergeom

    from project.comparison.significance import holm

    wrong = support - right
    n, errors = int(support.sum()), int(wrong.sum())
    # Which of the n are the wrong ones is by chance: at least so many of them in this class.
    return holm(hypergeom.sf(wrong.numpy() - 1, n, errors, support.numpy()).tolist())


def most_confused(confusion: Tensor, count: int) -> list[tuple[int, int, int]]:
    """Return the most frequent (true class, predicted class, examples), at most `count`.

    Args:
        confusion: int64 (K, K), row true class, column predicted.
    """
    wrong = confusion.clone().fill_diagonal_(0)
    cells = wrong.flatten().argsort(descending=True, stable=True)[:count].tolist()
    found = [(*divmod(cell, len(wrong)), int(wrong.flatten()[cell])) for cell in cells]
    return [cell for cell in found if cell[2] > 0]


def threshold_of(
    confidence: Tensor, right: Tensor, accuracy: float, fewest: int = 1
) -> float | None:
    """Return the confidence above or at which most examples remain, `accuracy` of them right.

    None where no threshold leaves that, or only fewer than `fewest` examples.

    Args:
        confidence: float64 (N,).
        right: Whether each was predicted right, (N,).
    """
    order = confidence.argsort(descending=True, stable=True)
    kept = torch.arange(1, len(order) + 1)
    # Of equal confidences all are kept or none.
    sorted_confidence = confidence[order]
    is_last = torch.ones(len(order), dtype=torch.bool)
    is_last[:-1] = sorted_confidence[1:] < sorted_confidence[:-1]
    good = (right[order].double().cumsum(0) >= accuracy * kept) & is_last & (kept >= fewest)
    return sorted_confidence[good.nonzero().max()].item() if good.any() else None
