"""Leaderboards as text for a terminal."""

import textwrap
from collections import Counter
from collections.abc import Sequence

from project.comparison.cells import (
    NOTES,
    cells,
    command_of,
    differences,
    left_out_in_words,
    title_of,
    verdict,
)
from project.comparison.leaderboard import Board

SCREEN = 80  # columns
MOST_KEYS = 12  # that differ, before a table of them says nothing
RANKS = ("experiment", "runs", "validation", "test", "95 % interval")
COSTS = ("parameters", "training", "throughput", "energy", "code")


def text_of(boards: list[Board], left_out: Counter[str]) -> str:
    """Return everything for a terminal; lines are longer than 80 columns only for commands."""
    parts = ["\n".join(lines_of(board)) for board in boards]
    notes = [NOTES, *wrapped(left_out_in_words(left_out), indent="")]
    return "\n\n".join([*parts, "\n".join(notes)])


def lines_of(board: Board) -> list[str]:
    """Return the ranks, what they cost, how sure they are, and what differs."""
    rows = [cells(board, i) for i in range(len(board.groups))]
    ranks, costs = (
        [("", *heads), *((str(i), *(row[h] for h in heads)) for i, row in enumerate(rows, start=1))]
        for heads in (RANKS, COSTS)
    )
    lines = [f"{title_of(board)}; the best validation first"]
    lines += [*aligned(fitted(ranks, column=1), right=[2]), ""]
    lines += aligned(costs, right=[1, 2, 3, 4])
    lines += [f"{rank}  {command_of(group)}" for rank, group in enumerate(board.groups, start=1)]
    if len(board.groups) > 1:
        lines += ["", *verdicts(board), *differing_keys(board)]
    return lines


def verdicts(board: Board) -> list[str]:
    """Return a sentence for each group on whether the first is better."""
    lines = []
    for i, found in board.against_first.items():
        if found is None:
            lines.append(f"1 against {i + 1}: no paired test: other examples or tokens, or no")
            lines.append("  outcomes.npz, which project.evaluate makes of an older run")
            continue
        said, by = verdict(board, i, found)
        lines += [*wrapped(said), *wrapped(f"  {by}")]
    return lines


def differing_keys(board: Board) -> list[str]:
    """Return what differs, in several tables where the groups do not fit beside each other."""
    found = differences(board)
    if not found:
        return []
    if len(found) > MOST_KEYS and len(board.groups) > 2:
        return ["", f"{len(found)} keys of the configurations differ: compare two to see them."]
    columns = [["differs", *(key for key, _ in found)]]
    for i in range(len(board.groups)):
        columns.append([str(i + 1), *(cut(values[i], 20) for _, values in found)])
    return [line for table in side_by_side(columns) for line in ("", *table)]


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


def aligned(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Return rows, the first of which is the head, as lines of equal columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        parts = [
            text.rjust(width) if i in right else text.ljust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(parts).rstrip())
    lines.insert(1, "-" * max(map(len, lines)))
    return lines


def fitted(rows: Sequence[tuple[str, ...]], column: int) -> list[tuple[str, ...]]:
    """Return rows with one column cut, so that they fit on the screen when they are aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    room = SCREEN - sum(widths) + widths[column] - 2 * (len(widths) - 1)
    return [(*row[:column], cut(row[column], max(room, 8)), *row[column + 1 :]) for row in rows]


def cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def wrapped(text: str, indent: str = "  ") -> list[str]:
    """Return a text as lines that fit on the screen, all but the first indented."""
    return textwrap.wrap(text, SCREEN, subsequent_indent=indent, break_on_hyphens=False)
