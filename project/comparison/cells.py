"""What the tables say of a group, in words, whether in a terminal, in a file or on a page."""

import json
import statistics
from collections import Counter
from typing import Any

from project.comparison.configurations import differing, flat, short
from project.comparison.leaderboard import Board, Figure, figure_of
from project.comparison.runs import Group
from project.comparison.significance import Comparison

NAMES = {"accuracy": "accuracy, %", "bits_per_byte": "bits per byte"}
SPREAD = """\
± is the standard deviation over runs; the interval holds for 95 %: of the mean
over seeds (Student's t), of a single run over the examples of its split. Over
folds, which share most of their training images, it is too narrow."""
NOTES = f"""\
{SPREAD}
p-values are adjusted for the number of comparisons on the same data (Holm)."""


def title_of(board: Board) -> str:
    metric = NAMES.get(board.metric, board.metric)
    return f"{board.data}: {'loss, nats' if board.metric == 'loss' and board.is_text else metric}"


def cells(board: Board, i: int) -> dict[str, str]:
    """Return the row of a group by the heads of the columns."""
    group = board.groups[i]
    val, last = (figure_of(group, split, board.metric) for split in ("val", board.split))
    return {
        "experiment": group.name,
        "runs": runs_in_words(group),
        "validation": shown(val, board.metric),
        "test": shown(last, board.metric) if board.split == "test" else "none",
        "95 % interval": shown_interval(last, board.metric),
        "p (1 differs)": f"{board.adjusted[i]:.2g}" if i in board.adjusted else "",
        "parameters": f"{group.newest.record.get('parameters', 0):,}",
        "training": f"{seconds_of(group):,.0f} s",
        "throughput": throughput_of(group),
        "energy": energy_of(group),
        "code": code_of(group),
    }


def scale(metric: str) -> tuple[float, int]:
    """Return the factor and the digits that a metric is shown with."""
    return (100.0, 2) if metric == "accuracy" else (1.0, 4)


def shown(figure: Figure | None, metric: str) -> str:
    if figure is None:
        return "-"
    factor, digits = scale(metric)
    text = f"{factor * figure.mean:.{digits}f}"
    if figure.deviation is not None:
        text += f" ± {factor * figure.deviation:.{digits}f}"
    return text


def shown_interval(figure: Figure | None, metric: str) -> str:
    factor, digits = scale(metric)
    ends = (figure and figure.interval) or ()
    return "-".join(f"{factor * end:.{digits}f}" for end in ends)


def runs_in_words(group: Group) -> str:
    """Return how many runs there are, as folds and seeds, and how many more have failed."""
    seeds, folds = (len({run.repetition[i] for run in group.runs}) for i in (0, 1))
    text = str(len(group.runs))
    if group.is_crossed:
        text = f"{folds} folds" + (f" x {seeds}" if seeds > 1 else "")
    return text + (f" +{group.failed} failed" if group.failed else "")


def seconds_of(group: Group) -> float:
    return statistics.fmean(run.record.get("training_seconds", 0.0) for run in group.runs)


def throughput_of(group: Group) -> str:
    for key in ("images_per_second", "tokens_per_second"):
        speeds = [run.record[key] for run in group.runs if key in run.record]
        if speeds:
            return f"{statistics.fmean(speeds):,.0f} {key.split('_')[0]}/s"
    return "-"


def energy_of(group: Group) -> str:
    """Return the mean energy of a run; `-` where none was recorded."""
    found = [run.record["energy_kwh"] for run in group.runs if "energy_kwh" in run.record]
    return f"{1000 * statistics.fmean(found):.3g} Wh" if found else "-"


def code_of(group: Group) -> str:
    """Return the commit that the runs were made with; `*` after one with changes."""
    commits = set()
    for run in group.runs:
        git = run.record.get("git", {})
        commits.add((git.get("commit") or "none")[:7] + ("*" if git.get("changed") else ""))
    return commits.pop() if len(commits) == 1 else f"{len(commits)} versions"


def command_of(group: Group) -> str:
    return str(group.newest.record.get("command", ""))


def verdict(board: Board, i: int, found: Comparison) -> tuple[str, str]:
    """Return how the first compares with another, and by which test."""
    factor, digits = scale(board.metric)
    unit = " points" if board.metric == "accuracy" else " nats" if board.is_text else " in the loss"
    low, high = (f"{factor * end:+.{digits}f}" for end in found.interval)
    p_value = board.adjusted[i]
    sure = "not told apart"
    if p_value < 0.05:
        sure = "better" if found.difference > 0 else "worse"
    said = (
        f"1 against {i + 1}: {sure}, {factor * found.difference:+.{digits}f}{unit} "
        f"(95 %: {low} to {high}), p = {p_value:.2g}"
    )
    return said, f"{found.method}, {board.split} split"


def differences(board: Board) -> list[tuple[str, list[str]]]:
    """Return each key that is not the same in all configurations, with its values by rank."""
    recipes = [group.newest.recipe for group in board.groups]
    flattened = [flat(recipe) for recipe in recipes]
    return [
        (typed(key), [value_of(config, key) for config in flattened]) for key in differing(recipes)
    ]


def typed(key: str) -> str:
    """Return a dotted key as it is typed: without `init_args`, and a class by its place."""
    return key.replace(".init_args", "").removesuffix(".class_path")


def value_of(config: dict[str, Any], key: str) -> str:
    if key not in config:
        return "-"
    value = config[key]
    return short(value) if key.endswith("class_path") else json.dumps(value)


def left_out_in_words(left_out: Counter[str]) -> str:
    """Return how many runs are not in the tables, and why."""
    if not left_out:
        return ""
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
    return f"Left out: {reasons}."
