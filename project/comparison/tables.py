"""Leaderboards as text for a terminal, as Markdown and as CSV."""

import csv
import io
import json
import shlex
import statistics
import textwrap
from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import Any

from project.comparison.configurations import differing, flat, short
from project.comparison.leaderboard import Board, Figure, figure_of
from project.comparison.runs import Group
from project.comparison.statistics import Comparison

MOST_KEYS = 12  # that differ, before a table of them says nothing
SCREEN = 80  # columns
NAMES = {"accuracy": "accuracy, %", "bits_per_byte": "bits per byte"}
SPREAD = """\
± is the standard deviation over runs; the interval holds for 95 %: of the mean
over seeds (Student's t), of a single run over the examples of its split. Over
folds, which share most of their training images, it is too narrow."""
NOTES = f"""\
{SPREAD}
p-values are adjusted for the number of comparisons on the same data (Holm)."""


def scale(metric: str) -> tuple[float, int]:
    """Return the factor and the digits that a metric is shown with."""
    return (100.0, 2) if metric == "accuracy" else (1.0, 4)


def metric_in_words(board: Board) -> str:
    if board.metric == "loss" and board.is_text:
        return "loss, nats"
    return NAMES.get(board.metric, board.metric)


def shown(figure: Figure | None, metric: str) -> str:
    if figure is None:
        return "-"
    factor, digits = scale(metric)
    text = f"{factor * figure.mean:.{digits}f}"
    if figure.deviation is not None:
        text += f" ± {factor * figure.deviation:.{digits}f}"
    return text


def shown_interval(interval: tuple[float, float] | None, metric: str) -> str:
    factor, digits = scale(metric)
    return "" if interval is None else "-".join(f"{factor * end:.{digits}f}" for end in interval)


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
    commits = []
    for run in group.runs:
        git = run.record.get("git", {})
        commits.append((git.get("commit") or "none")[:7] + ("*" if git.get("changed") else ""))
    versions = list(dict.fromkeys(commits))
    return versions[0] if len(versions) == 1 else f"{len(versions)} versions"


def command_of(group: Group) -> str:
    return str(group.newest.record.get("command", ""))


def cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def fitted(rows: Sequence[tuple[str, ...]], column: int) -> list[tuple[str, ...]]:
    """Return rows with one column cut, so that they fit on the screen when they are aligned."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    room = SCREEN - sum(widths) + widths[column] - 2 * (len(widths) - 1)
    return [(*row[:column], cut(row[column], max(room, 8)), *row[column + 1 :]) for row in rows]


def wrapped(text: str, indent: str = "  ") -> list[str]:
    """Return a text as lines that fit on the screen, all but the first indented."""
    return textwrap.wrap(text, SCREEN, subsequent_indent=indent, break_on_hyphens=False)


def aligned(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Return rows, the first of which is the head, as lines of equal columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            text.rjust(width) if i in right else text.ljust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "-" * max(map(len, lines)))
    return lines


def text_of(boards: list[Board], left_out: Counter[str]) -> str:
    """Return everything for a terminal; lines are longer than 80 columns only for commands."""
    parts = ["\n".join(lines_of(board)) for board in boards]
    parts.append(NOTES)
    if words := left_out_in_words(left_out):
        parts[-1] += "\n" + "\n".join(wrapped(words, indent=""))
    return "\n\n".join(parts)


def lines_of(board: Board) -> list[str]:
    """Return the ranks, what they cost, how sure they are, and what differs."""
    title = f"{board.data}: {metric_in_words(board)}; the best validation first"
    ranks, costs = [("", "experiment", "runs", "validation", "test", "95 % interval")], []
    for rank, group in enumerate(board.groups, start=1):
        val, last = (figure_of(group, split, board.metric) for split in ("val", board.split))
        interval = shown_interval(last.interval if last else None, board.metric)
        test = shown(last, board.metric) if board.split == "test" else "none"
        val_shown = shown(val, board.metric)
        ranks.append((str(rank), group.name, runs_in_words(group), val_shown, test, interval))
        costs.append(cost_row(rank, group))
    head = ("", "parameters", "training", "throughput", "energy", "code")
    lines = [title, *aligned(fitted(ranks, column=1), right=[2]), ""]
    lines += aligned([head, *costs], right=[1, 2, 3, 4])
    lines += [f"{rank}  {command_of(group)}" for rank, group in enumerate(board.groups, start=1)]
    if len(board.groups) > 1:
        lines += ["", *verdicts(board), *differences(board)]
    return lines


def cost_row(rank: int, group: Group) -> tuple[str, ...]:
    return (
        str(rank),
        f"{group.newest.record.get('parameters', 0):,}",
        f"{seconds_of(group):,.0f} s",
        throughput_of(group),
        energy_of(group),
        code_of(group),
    )


def verdicts(board: Board) -> list[str]:
    """Return a sentence for each group on whether the first is better."""
    lines = []
    for i in range(1, len(board.groups)):
        found = board.against_first.get(i)
        if found is None:
            lines.append(f"1 against {i + 1}: no paired test: other examples or tokens, or no")
            lines.append("  outcomes.npz, which project.evaluate makes of an older run")
            continue
        said, by = verdict(board, i, found)
        lines += [*wrapped(said), *wrapped(f"  {by}")]
    return lines


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


def differences(board: Board) -> list[str]:
    """Return the keys that are not the same in all groups, with their values by rank.

    In several tables where the groups do not fit beside each other.
    """
    configs = [group.newest.recipe for group in board.groups]
    keys = differing(configs)
    if len(keys) > MOST_KEYS and len(board.groups) > 2:
        return ["", f"{len(keys)} keys of the configurations differ: compare two to see them."]
    columns = [["differs", *map(typed, keys)]]
    for rank, config in enumerate(map(flat, configs), start=1):
        columns.append([str(rank), *(cut(value_of(config, key), 20) for key in keys)])
    return [line for table in side_by_side(columns) for line in ("", *table)] if keys else []


def side_by_side(columns: list[list[str]]) -> list[list[str]]:
    """Return tables that fit on the screen, each of the first column and some of the others."""
    first, *others = columns
    tables, taken = [], [first]
    for column in others:
        width = sum(2 + max(map(len, cells)) for cells in (*taken, column)) - 2
        if width > SCREEN and len(taken) > 1:
            tables.append(taken)
            taken = [first]
        taken.append(column)
    tables.append(taken)
    return [aligned(list(zip(*table, strict=True))) for table in tables]


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


def markdown_of(boards: list[Board], left_out: Counter[str]) -> str:
    """Return the boards as Markdown tables."""
    parts = []
    for board in boards:
        lines = [
            f"### {escape(board.data)}: {metric_in_words(board)}",
            "",
            "| | experiment | runs | validation | test | 95 % interval | p (1 differs) "
            "| parameters | training | throughput | energy | code | command |",
            "| --- " * 13 + "|",
        ]
        for i, group in enumerate(board.groups):
            lines.append("| " + " | ".join(map(in_a_cell, markdown_row(board, i, group))) + " |")
        parts.append("\n".join(lines))
    parts.append(NOTES.replace("\n", " ") + f" {left_out_in_words(left_out)}".rstrip())
    return "\n\n".join(parts) + "\n"


def in_a_cell(text: str) -> str:
    """Return Markdown that ends neither its cell nor its row."""
    return " ".join(text.split()).replace("|", "\\|")


def as_code(text: str) -> str:
    """Return a text as it is typed, in Markdown, whatever is in it."""
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def markdown_row(board: Board, i: int, group: Group) -> list[str]:
    val, last = (figure_of(group, split, board.metric) for split in ("val", board.split))
    rank, *cost = cost_row(i + 1, group)
    return [
        rank,
        escape(group.name, quote=False),
        runs_in_words(group),
        shown(val, board.metric),
        shown(last, board.metric) if board.split == "test" else "none",
        shown_interval(last.interval if last else None, board.metric),
        f"{board.adjusted[i]:.2g}" if i in board.adjusted else "",
        *cost,
        as_code(command_of(group)),
    ]


COLUMNS = [
    "data", "metric", "rank", "experiment", "runs", "seeds", "val_mean", "val_deviation",
    "test_mean", "test_deviation", "interval_low", "interval_high", "p_first_differs",
    "parameters", "training_seconds", "throughput", "energy", "code", "command", "directories",
]  # fmt: skip


def csv_of(boards: list[Board]) -> str:
    """Return a row a group, figures unrounded."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for board in boards:
        for i, group in enumerate(board.groups):
            writer.writerow(csv_row(board, i, group))
    return text.getvalue()


def csv_row(board: Board, i: int, group: Group) -> dict[str, Any]:
    row: dict[str, Any] = {
        "data": board.data,
        "metric": board.metric,
        "rank": i + 1,
        "experiment": group.name,
        "runs": len(group.runs),
        "seeds": " ".join(str(run.repetition[0]) for run in group.runs),
        "p_first_differs": board.adjusted.get(i),
        "parameters": group.newest.record.get("parameters"),
        "training_seconds": seconds_of(group),
        "throughput": throughput_of(group),
        "energy": energy_of(group),
        "code": code_of(group),
        "command": command_of(group),
        "directories": shlex.join(str(run.directory) for run in group.runs),
    }
    for split in ("val", "test"):
        if figure := figure_of(group, split, board.metric):
            row |= {f"{split}_mean": figure.mean, f"{split}_deviation": figure.deviation}
            if split == board.split and figure.interval:
                row |= dict(zip(("interval_low", "interval_high"), figure.interval, strict=True))
    return row
