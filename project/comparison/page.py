"""Leaderboards with learning curves as one HTML page that needs no other file and no script."""

from collections import Counter
from datetime import datetime
from html import escape

from project.comparison.configurations import differing, flat
from project.comparison.curves import Curve, colour_of, plot, read_curve
from project.comparison.leaderboard import Board, figure_of
from project.comparison.runs import Group
from project.comparison.tables import (
    NAMES,
    NOTES,
    code_of,
    command_of,
    energy_of,
    left_out_in_words,
    runs_in_words,
    seconds_of,
    shown,
    shown_interval,
    throughput_of,
    typed,
    value_of,
    verdict,
)

STYLE = """\
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #fff; --line: #ddd; --soft: #f5f5f5 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --paper: #161616; --line: #3a3a3a; --soft: #222 } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 1320px; margin: 2rem auto; padding: 0 1rem; overflow-wrap: break-word }
h1 { font-size: 1.5rem } h2 { font-size: 1.2rem; margin-top: 2.5rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap;
  font-size: .88rem }
th, td { padding: .35rem .5rem; border-bottom: 1px solid var(--line); text-align: right }
th { font-weight: 600; background: var(--soft) }
td.name, th.name { text-align: left; white-space: normal;
  overflow-wrap: anywhere; min-width: min(9.5rem, 40vw);
  position: sticky; left: 0; background: var(--paper) }
th.name { background: var(--soft) }
.swatch { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .5em }
.curves { display: flex; flex-wrap: wrap; gap: 1rem }
figure { margin: .5rem 0; flex: 1 1 320px; max-width: 640px }
figcaption { font-weight: 600 } svg { width: 100%; height: auto; font: 13px system-ui, sans-serif }
svg text { fill: currentColor } .end { text-anchor: end } .middle { text-anchor: middle }
.grid { stroke: var(--line) } polyline { fill: none; stroke-width: 1.6 }
polyline:hover { stroke-width: 4 }
code { font-size: .85em; overflow-wrap: anywhere; white-space: pre-wrap }
summary { cursor: pointer } .muted { opacity: .75 }
@media print { body { max-width: none } .scroll { overflow: visible } }
"""


def page_of(boards: list[Board], left_out: Counter[str]) -> str:
    """Return the page; it can be mailed, printed and read on a phone."""
    num_runs = sum(len(group.runs) for board in boards for group in board.groups)
    made = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>Comparison of {num_runs} runs</title><style>{STYLE}</style></head><body>",
            f"<h1>Comparison of {num_runs} runs</h1>",
            f'<p class="muted">{escape(NOTES)} Recipes are ranked by validation; the test split '
            f"chose nothing. {escape(left_out_in_words(left_out))} Made {made}.</p>",
            *(section(board) for board in boards),
            "</body></html>\n",
        ]
    )


def section(board: Board) -> str:
    """Return the ranks on one data set, with curves, differences and commands."""
    metric = NAMES.get(board.metric, board.metric)
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


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a table of cells that are HTML already; the first column is a name."""

    def line(cells: list[str], tag: str) -> str:
        named = [
            f'<{tag} class="name">{cell}</{tag}>' if i == 0 else f"<{tag}>{cell}</{tag}>"
            for i, cell in enumerate(cells)
        ]
        return f"<tr>{''.join(named)}</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f"<table><thead>{line(head, 'th')}</thead><tbody>{body}</tbody></table>"


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
