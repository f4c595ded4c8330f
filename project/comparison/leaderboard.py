"""Which recipe is best on which data: ranked by validation, with the test beside it."""

import json
import statistics
from dataclasses import dataclass, field

import numpy as np

from project.comparison.outcomes import Outcomes, load_outcomes
from project.comparison.runs import Group, Run, identity_of_data, name_of_data
from project.comparison.significance import (
    Comparison,
    block_means,
    holm,
    mcnemar,
    paired,
)
from project.intervals import seed_interval

LESS_IS_BETTER = ("loss", "bits_per_byte", "perplexity")


@dataclass(frozen=True)
class Figure:
    """A number of a group.

    Attributes:
        mean: Over its runs.
        deviation: Standard deviation over its runs, None of a single one.
        interval: 95 %, of the mean over runs, or of a single run over the examples.
    """

    mean: float
    deviation: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Board:
    """The groups that were measured on the same data, the best by validation first.

    Attributes:
        data: Name of the data, and of a task of one's own.
        metric: By which they are ranked.
        split: `test`, or `val` where nothing was tested.
        groups: Best first.
        is_text: Whether the examples are the tokens of a text, and losses are in nats.
        against_first: Of all but the first, how the first compares; None where the outcomes are not
            on disk, or not of the same examples.
        adjusted: Their p-values, adjusted for their number (Holm).
    """

    data: str
    metric: str
    split: str
    groups: list[Group]
    is_text: bool = False
    against_first: dict[int, Comparison | None] = field(default_factory=dict)
    adjusted: dict[int, float] = field(default_factory=dict)


def leaderboards(groups: list[Group]) -> list[Board]:
    """Return a board for each data and task, in the order in which they were first trained on."""
    by_data: dict[tuple[str, str], list[Group]] = {}
    for group in groups:
        identity = identity_of_data(group.newest.record.get("data", {}))
        by_data.setdefault((identity, own_task(group.newest)), []).append(group)
    names = [
        name_of_data(found[0].newest.record.get("data", {})) + (task and f", {task}")
        for (_, task), found in by_data.items()
    ]
    boards = []
    for ((identity, _), found), name in zip(by_data.items(), names, strict=True):
        is_unique = names.count(name) == 1
        boards.append(board_of(name if is_unique else f"{name} {identity[-8:]}", found))
    return boards


def own_task(run: Run) -> str:
    """Return the name of a task that measures other things than classes or tokens, else ""."""
    if is_text(run) or run.value("val", "accuracy") is not None:
        return ""
    model = run.config.get("model") or {}
    return str(model.get("class_path", "")).rpartition(".")[2]


def is_text(run: Run) -> bool:
    return "corpus" in run.record.get("data", {})


def board_of(name: str, groups: list[Group]) -> Board:
    """Rank groups by validation, and compare the first with the others."""
    metric = metric_of(groups)
    split = "test" if any(group.values("test", metric) for group in groups) else "val"
    sign = 1 if is_less_better(metric, groups) else -1

    def by_validation(group: Group) -> float:
        values = group.values("val", metric)
        return sign * statistics.fmean(values) if values else float("inf")

    ranked = sorted(groups, key=by_validation)
    of_first = outcomes_of(ranked[0], split) if len(ranked) > 1 else []
    against = {i: compare(ranked[0], of_first, ranked[i], split) for i in range(1, len(ranked))}
    known = {i: found.p_value for i, found in against.items() if found is not None}
    adjusted = dict(zip(known, holm(list(known.values())), strict=True))
    return Board(name, metric, split, ranked, is_text(ranked[0].newest), against, adjusted)


def metric_of(groups: list[Group]) -> str:
    """Return the metric that all groups can be ranked by.

    Accuracy of images. Of a text the loss, or, where tokens differ, bits per byte, which do not
    depend on them. Else what the newest was chosen by.
    """
    runs = [group.newest for group in groups]
    if all(run.value("val", "accuracy") is not None for run in runs):
        return "accuracy"
    tokens = {json.dumps(run.record.get("data", {}).get("sha256")) for run in runs}
    if all(run.value("val", "bits_per_byte") is not None for run in runs) and len(tokens) > 1:
        return "bits_per_byte"
    return str(runs[-1].record.get("chosen_by", "val/loss")).removeprefix("val/")


def is_less_better(metric: str, groups: list[Group]) -> bool:
    best = groups[-1].newest.config.get("best") or {}
    if best.get("monitor") == f"val/{metric}":
        return bool(best.get("mode") == "min")
    return metric in LESS_IS_BETTER


def figure_of(group: Group, split: str, metric: str) -> Figure | None:
    """Return a figure of a group, None where its runs do not have it."""
    values = group.values(split, metric)
    if not values:
        return None
    if len(values) == 1:
        measured = [run for run in group.runs if run.value(split, metric) is not None]
        return Figure(values[0], None, measured[0].interval(split, metric))
    interval = seed_interval(values)
    if interval is not None and metric == "accuracy":  # Student's t knows no bounds
        interval = max(0.0, interval[0]), min(1.0, interval[1])
    return Figure(statistics.fmean(values), statistics.stdev(values), interval)


def outcomes_of(group: Group, split: str) -> list[Outcomes]:
    return [load_outcomes(run.directory, split) for run in group.runs]


def compare(first: Group, of_first: list[Outcomes], second: Group, split: str) -> Comparison | None:
    """Return how much better the first is, None where the same examples are not on disk."""
    outcomes = [of_first, outcomes_of(second, split)]
    everything = [found for group in outcomes for found in group]
    if not all("losses" in found for found in everything):
        return None
    if all("predicted" in found for found in everything):
        return compare_images(*outcomes)
    data = [
        run.record.get("data", {}).get("sha256") for group in (first, second) for run in group.runs
    ]
    if any(hashes != data[0] for hashes in data):
        return None  # other examples or tokens
    if len({len(found["losses"]) for found in everything}) > 1:
        return None  # a part of the split
    losses = [np.stack([f["losses"] for f in group]).astype(np.float64) for group in outcomes]
    if not is_text(first.newest):
        return paired(-losses[0], -losses[1], "examples")
    first_means, second_means = (block_means(values) for values in losses)
    num_blocks = first_means.shape[1]
    size = losses[0].shape[1] // num_blocks
    return paired(-first_means, -second_means, f"blocks of {size} tokens")


def compare_images(first: list[Outcomes], second: list[Outcomes]) -> Comparison | None:
    """Compare by accuracy: two runs exactly, several of a recipe with the variance of seeds."""
    labels = first[0]["labels"]
    if any(not np.array_equal(found["labels"], labels) for found in (*first, *second)):
        return None
    right = [np.stack([f["predicted"] == labels for f in group]) for group in (first, second)]
    if len(first) == len(second) == 1:
        return mcnemar(right[0][0], right[1][0])
    scores = [values.astype(np.float64) for values in right]
    return paired(scores[0], scores[1], "images")
