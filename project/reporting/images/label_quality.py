"""Which labels are likely wrong, from probabilities of a model that did not learn from them.

Probabilities on images that a model was trained on say nothing: it has learnt the errors too.

Shape letters: N images, K classes.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from project.data.image_sets import stratified_folds


@dataclass(frozen=True)
class LabelQuality:
    """How far a model believes the labels of a split.

    Attributes:
        given, guessed: Labels, int64 (N,).
        believed: Probability of the given label (self-confidence), (N,).
        order: Indices of all images, the least believed first.
        flagged: Labels that confident learning calls wrong; None where the probabilities of the
            other classes are not known.
    """

    given: NDArray[np.int64]
    guessed: NDArray[np.int64]
    believed: NDArray[np.float64]
    order: NDArray[np.int64]
    flagged: int | None


def label_quality(labels: Tensor, probabilities: Tensor, tie: Tensor | None = None) -> LabelQuality:
    """Rank labels by self-confidence and count those that confident learning calls wrong.

    Source: Northcutt et al. 2021 (arXiv:1911.00068), as in cleanlab.

    Args:
        labels: Given, int64 (N,).
        probabilities: Out of sample, (N, K).
        tie: Of equally believed labels, those with the lower value come first, (N,).
    """
    given = labels.numpy()
    shares = probabilities.double().numpy()
    shares = shares / shares.sum(axis=1, keepdims=True)  # float32 sums to 1 but roughly
    believed, flagged = np.zeros(0), 0
    if len(given):
        from cleanlab.filter import find_label_issues
        from cleanlab.rank import get_label_quality_scores

        believed = get_label_quality_scores(given, shares, method="self_confidence")
        if len(np.unique(given)) > 1:  # of a single class nothing can be told apart
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="May not flag all")  # a class is small
                flagged = int(find_label_issues(given, shares, n_jobs=1).sum())
    second = np.zeros(len(given)) if tie is None else tie.numpy()
    order = np.lexsort((second, believed))
    return LabelQuality(given, shares.argmax(axis=1), believed, order, flagged)


def from_folds(
    run: Path | None, labels: Tensor, num_folds: int, split_seed: int
) -> LabelQuality | str:
    """Return what runs say of the training labels that they left out, or why they cannot be used.

    Each of the `num_folds` runs kept, in `outcomes.npz`, -log p(given label) of the images that it
    was validated on.

    Args:
        run: One of the runs, which lie side by side.
        labels: Of train and validation together, in the official order, int64 (N,).
        num_folds, split_seed: Of the data.
    """
    if run is None:
        return "the checkpoint lies outside of a run directory"
    validated = siblings(run)
    if absent := sorted(set(range(num_folds)) - set(validated)):
        return f"of its {num_folds} folds {absent} have not been trained"
    folds = stratified_folds(labels, num_folds, split_seed)
    guessed, believed = torch.zeros_like(labels), torch.zeros(len(labels), dtype=torch.float64)
    for fold, outcomes in validated.items():
        held_out = (folds == fold).nonzero().flatten()
        if not np.array_equal(outcomes["labels"], labels[held_out].numpy()):
            return f"fold {fold} was validated on other labels than those open here"
        guessed[held_out] = torch.from_numpy(outcomes["predicted"]).long()
        believed[held_out] = torch.from_numpy(outcomes["losses"]).double().neg().exp()
    scores = believed.numpy()
    return LabelQuality(labels.numpy(), guessed.numpy(), scores, scores.argsort(), None)


def siblings(run: Path) -> dict[int, dict[str, NDArray[Any]]]:
    """Return the validation outcomes of each fold of a run's recipe, of the newest run of each.

    Of the runs of a fold, one with the seed of `run` is taken before others.
    """
    from project.comparison.outcomes import load_outcomes
    from project.comparison.runs import directories, read_run

    mine = read_run(run)
    if mine is None:
        return {}
    seed = mine.repetition[0]
    found: dict[int, tuple[bool, dict[str, NDArray[Any]]]] = {}
    for directory in directories([run.resolve().parent]):  # the oldest first
        other = read_run(directory)
        if other is None or other.setting != mine.setting or other.record["status"] != "finished":
            continue
        outcomes = load_outcomes(directory, "val")
        is_alike = other.repetition[0] == seed
        fold = other.repetition[1]
        if outcomes and (is_alike or not found.get(fold, (False,))[0]):
            found[fold] = is_alike, outcomes
    return {fold: outcomes for fold, (_, outcomes) in sorted(found.items())}
