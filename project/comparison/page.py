"""Leaderboards with learning curves as one HTML page."""

from collections import Counter
from datetime import datetime
from html import escape

from project.comparison.configurations import differing, flat
from project.comparison.curves import Curve, colour_of, plot, read_curve
from project.comparison.leaderboard import Board, figure_of
from project.comparison.runs import Group
from project.comparison.tables import (
    NOTES,
    code_of,
    command_of,
    energy_of,
    left_out_in_words,
    metric_in_words,
    runs_in_words,
    seconds_of,
    shown,
    shown_interval,
    throughput_of,
    typed,
    value_of,
    verdict,
)
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
    metric = metric_in_words(board)
    return "\n".join(
        [
            f"<section><h2>{escape(board.data)}: {escape(metric)}</h2>",
            f'<div class="scroll">{ranks(board)}</div>',
            f'<div class="curves">{curves(board)}</div>',
            *sureness(board),
            *differences(board),
            commands(board),
            "</section>",
        ]
    )


def ranks(board: Board) -> str:
    head = ["experiment", "runs", "validation", "test", "95 % interval", "p (1 differs)"]
    head += ["parameters", "training", "throughput", "energy", "code"]
    rows = []
    for i, group in enumerate(board.groups):
        val, last = (figure_of(group, split, board.metric) for split in ("val", board.split))
        rows.append(
            [
                f"{swatch(i)}{i + 1}. {escape(group.name)}",
                runs_in_words(group),
                shown(val, board.metric),
                shown(last, board.metric) if board.split == "test" else "none",
                shown_interval(last.interval if last else None, board.metric),
                f"{board.adjusted[i]:.2g}" if i in board.adjusted else "",
                f"{group.newest.record.get('parameters', 0):,}",
                f"{seconds_of(group):,.0f} s",
                throughput_of(group),
                energy_of(group),
                escape(code_of(group)),
            ]
        )
    return table(head, rows)


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


def differences(board: Board) -> list[str]:
    """Return what is not the same in the configurations."""
    configs = [group.newest.recipe for group in board.groups]
    keys = differing(configs)
    if not keys:
        return []
    flattened = [flat(config) for config in configs]
    head = ["key", *(f"{swatch(i)}{i + 1}" for i in range(len(configs)))]
    rows = [[escape(typed(key)), *(escape(value_of(c, key)) for c in flattened)] for key in keys]
    return [
        f"<details><summary>What differs: {len(keys)} keys</summary>"
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
