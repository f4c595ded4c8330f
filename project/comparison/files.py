"""Leaderboards as Markdown and as CSV."""

import csv
import io
import shlex
from collections import Counter
from html import escape
from typing import Any

from project.comparison.cells import (
    NOTES,
    cells,
    code_of,
    command_of,
    energy_of,
    left_out_in_words,
    seconds_of,
    throughput_of,
    title_of,
)
from project.comparison.leaderboard import Board, figure_of


def markdown_of(boards: list[Board], left_out: Counter[str]) -> str:
    """Return the boards as Markdown tables."""
    parts = [f"### {escape(title_of(board))}\n\n{markdown_table(board)}" for board in boards]
    parts.append(NOTES.replace("\n", " ") + f" {left_out_in_words(left_out)}".rstrip())
    return "\n\n".join(parts) + "\n"


def markdown_table(board: Board) -> str:
    rows = []
    for i, group in enumerate(board.groups):
        row = cells(board, i)
        row["experiment"] = escape(group.name, quote=False)
        rows.append({"": str(i + 1), **row, "command": as_code(command_of(group))})
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join(f"| {' | '.join(map(in_a_cell, line))} |" for line in lines)


def in_a_cell(text: str) -> str:
    """Return Markdown that ends neither its cell nor its row."""
    return " ".join(text.split()).replace("|", "\\|")


def as_code(text: str) -> str:
    """Return a text as it is typed, in Markdown, whatever is in it."""
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def csv_of(boards: list[Board]) -> str:
    """Return a row a group, figures unrounded."""
    rows = [csv_row(board, i) for board in boards for i in range(len(board.groups))]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def csv_row(board: Board, i: int) -> dict[str, Any]:
    group = board.groups[i]
    val, test, last = (
        figure_of(group, split, board.metric) for split in ("val", "test", board.split)
    )
    low, high = (last and last.interval) or (None, None)
    return {
        "data": board.data,
        "metric": board.metric,
        "rank": i + 1,
        "experiment": group.name,
        "runs": len(group.runs),
        "seeds": " ".join(str(run.repetition[0]) for run in group.runs),
        "val_mean": val and val.mean,
        "val_deviation": val and val.deviation,
        "test_mean": test and test.mean,
        "test_deviation": test and test.deviation,
        "interval_low": low,
        "interval_high": high,
        "p_first_differs": board.adjusted.get(i),
        "parameters": group.newest.record.get("parameters"),
        "training_seconds": seconds_of(group),
        "throughput": throughput_of(group),
        "energy": energy_of(group),
        "code": code_of(group),
        "command": command_of(group),
        "directories": shlex.join(str(run.directory) for run in group.runs),
    }
