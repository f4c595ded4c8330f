"""Leaderboards with learning curves as one HTML page."""

from collections import Counter
from datetime import datetime
from html import escape

from project.comparison.cells import (
    NOTES,
    cells,
    command_of,
    differences,
    left_out_in_words,
    title_of,
    verdict,
)
from project.comparison.curves import Curve, colour_of, plot, read_curve
from project.comparison.leaderboard import Board
from project.comparison.runs import Group
from project.web_page import page, table

STYLE = """\
.swatch { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .5em }
.curves { display: flex; flex-wrap: wrap; gap: 1rem }
figure { margin: .5rem 0; flex: 1 1 320px; max-width: 640px }
figcaption { font-weight: 600 } svg { width: 100%; height: auto; font: 13px system-ui, sans-serif }
svg text { fill: currentColor } .end { text-anchor: end } .middle { text-anchor: middle }
.grid { stroke: var(--line) } polyline { fill: none; stroke-width: 1.6 }
polyline:hover { stroke-width: 4 }
"""


def page_of(boards: list[Board], left_out: Counter[str]) -> str:
    """Return the page; it can be mailed, printed and read on a phone."""
    num_runs = sum(len(group.runs) for board in boards for group in board.groups)
    made = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    title = f"Comparison of {num_runs} runs"
    body = [
        f"<h1>{title}</h1>",
        f'<p class="muted">{escape(NOTES)} Recipes are ranked by validation; the test split '
        f"chose nothing. {escape(left_out_in_words(left_out))} Made {made}.</p>",
        *(section(board) for board in boards),
    ]
    return page(title, body, STYLE)


def section(board: Board) -> str:
    """Return the ranks on one data set, with curves, differences and commands."""
    return "\n".join(
        [
            f"<section><h2>{escape(title_of(board))}</h2>",
            f'<div class="scroll">{ranks(board)}</div>',
            f'<div class="curves">{curves(board)}</div>',
            *sureness(board),
            *differing_keys(board),
            commands(board),
            "</section>",
        ]
    )


def ranks(board: Board) -> str:
    found = [cells(board, i) for i in range(len(board.groups))]
    rows = [list(map(escape, row.values())) for row in found]
    for i, row in enumerate(rows):
        row[0] = f"{swatch(i)}{i + 1}. {row[0]}"
    return table(list(found[0]), rows)


def swatch(rank: int) -> str:
    return f'<span class="swatch" style="background:{colour_of(rank)}"></span>'


def curves(board: Board) -> str:
    """Return plots of the validated metric and of the training loss, a line a run."""
    plots = []
    for metric in dict.fromkeys((f"val/{board.metric}", "train/loss")):
        lines = [
            Curve(
                f"{rank + 1}. {group.name}, seed {run.repetition[0]}",
                colour_of(rank),
                read_curve(run.directory, metric),
            )
            for rank, group in enumerate(board.groups)
            for run in group.runs
        ]
        plots.append(plot(metric, lines, percent=metric.endswith("accuracy")))
    return "".join(plots)


def sureness(board: Board) -> list[str]:
    """Return whether the first is better than each of the others."""
    lines = []
    for i, found in board.against_first.items():
        if found is not None:
            said, by = verdict(board, i, found)
            by = f"<span class='muted'>({escape(by)})</span>"
            lines.append(f"<li>{escape(said)} {by}</li>")
    return [f"<h3>Is the first better?</h3><ul>{''.join(lines)}</ul>"] if lines else []


def differing_keys(board: Board) -> list[str]:
    """Return what is not the same in the configurations."""
    found = differences(board)
    if not found:
        return []
    head = ["key", *(f"{swatch(i)}{i + 1}" for i in range(len(board.groups)))]
    rows = [[escape(key), *map(escape, values)] for key, values in found]
    return [
        f"<details><summary>What differs: {len(found)} keys</summary>"
        f'<div class="scroll">{table(head, rows)}</div></details>'
    ]


def commands(board: Board) -> str:
    """Return the command and the directories of each group."""
    items = "".join(
        f"<p>{swatch(i)}{i + 1}. {escape(group.name)}<br><code>{escape(command_of(group))}</code>"
        f"<br><span class='muted'>{escape(places(group))}</span></p>"
        for i, group in enumerate(board.groups)
    )
    return f"<details><summary>Commands and run directories</summary>{items}</details>"


def places(group: Group) -> str:
    return ", ".join(str(run.directory) for run in group.runs)
