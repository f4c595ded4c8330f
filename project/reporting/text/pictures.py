"""The pictures of a report on a language model.

Shape letters: T tokens, B windows.
"""

import warnings
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from project.reporting.drawing import as_png, draw_spreads, panels
from project.reporting.separation import Scores

COLUMNS = 48  # characters of a line
SHOWN_AS = str.maketrans({"\n": "↵", "\r": "↵", "\t": "→", " ": "·"})

Row = tuple[str, list[str], Tensor]  # a heading; tokens and their numbers (T,), or none of either


def text_picture(rows: list[Row]) -> bytes:
    """Draw tokens in the order of the text, red above 0 and blue below.

    Each row has a scale of its own, symmetrical about 0 (white). Spaces are shown as dots.
    """
    lines = [line for row in rows for line in laid_out(*row)]
    height = len(lines)
    figure = Figure(figsize=(5, 0.19 * height + 0.1), dpi=150)
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    axes.set(xlim=(0, COLUMNS), ylim=(height, 0))
    axes.axis("off")
    for y, (heading, cells) in enumerate(lines):
        axes.text(0, y + 0.62, heading, fontsize=8, va="center", color="0.25")
        draw_cells(axes, y, cells)
    with warnings.catch_warnings():  # of scripts that the font does not have
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        return as_png(figure)


def laid_out(
    heading: str, pieces: list[str], values: Tensor
) -> list[tuple[str, list[tuple[str, float]]]]:
    """Return lines: the heading, then characters with the number of their token in [-1, 1]."""
    most = values.abs().max().item() if len(values) else 1.0
    cells = [
        (character if character.isprintable() else "▯", value / (most or 1.0))
        for piece, value in zip(pieces, values.tolist(), strict=True)
        for character in piece.translate(SHOWN_AS)
    ]
    return [
        (heading, []),
        *(("", cells[i : i + COLUMNS]) for i in range(0, len(cells), COLUMNS)),
    ]


def draw_cells(axes: Any, y: int, cells: list[tuple[str, float]]) -> None:
    for x, (character, value) in enumerate(cells):
        colour = colormaps["RdBu_r"](0.5 + 0.5 * value)
        axes.add_patch(Rectangle((x, y), 1, 1, facecolor=colour, linewidth=0))
        ink = "white" if abs(value) > 0.7 else "black"
        style = {"family": "monospace", "fontsize": 9, "ha": "center", "va": "center"}
        axes.text(x + 0.5, y + 0.52, character, color=ink, **style)


def context_picture(
    lengths: list[int],
    losses: list[float],
    intervals: list[tuple[float, float]],
    far: int | None = None,
) -> bytes:
    """Draw the mean loss over the tokens of context, with intervals.

    Args:
        losses, intervals: At each of `lengths`, nats.
        far: Length from which on more context hardly helps, marked.
    """
    figure, ((axes,),) = panels(5, 3.2)
    below = [max(mean - low, 0) for mean, (low, _) in zip(losses, intervals, strict=True)]
    above = [max(high - mean, 0) for mean, (_, high) in zip(losses, intervals, strict=True)]
    axes.errorbar(lengths, losses, [below, above], fmt="o-", markersize=4, capsize=3)
    if far is not None:
        axes.axvline(far, linestyle="--", color="0.4")
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [str(length) for length in lengths])
    axes.minorticks_off()
    axes.set(xlabel="tokens of context", ylabel="loss of the next token, nats")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    return as_png(figure)


def heads_picture(maps: dict[str, Tensor]) -> bytes:
    """Draw attention weights (T, T) by the name of the head, two in a row."""
    rows = -(-len(maps) // 2)
    figure, grid = panels(5, 0.3 + 2.5 * rows, rows, 2)
    for place in grid.flat:
        place.axis("off")
    for place, (name, weights) in zip(grid.flat, maps.items(), strict=False):
        place.axis("on")
        # The square root, so that weights of a hundredth are seen too.
        place.imshow(weights.sqrt().numpy(), cmap="Blues", vmin=0, vmax=1)
        place.set_title(name, fontsize=9)
        place.set(xlabel="position looked at", ylabel="position that looks")
    return as_png(figure)


def spread_picture(rows: dict[str, Scores]) -> bytes:
    """Draw how the bits per byte of windows (B,) are spread, a row a kind, the own text first."""
    figure, ((axes,),) = panels(4.5, 0.8 + 0.5 * len(rows))
    edges = np.linspace(0, max(losses.max() for losses in rows.values()), 61)
    draw_spreads(axes, list(rows.values()), edges)
    axes.set_yticks([row + 0.3 for row in range(len(rows))], list(reversed(rows)))
    axes.set_xlabel("mean loss of a window, bits per byte")
    return as_png(figure)


def typos_picture(rates: list[float], bits: dict[str, list[float]], alone: float) -> bytes:
    """Draw bits per byte of a continuation by the rate of typos in its context, a line a kind.

    Args:
        bits: At each of the rates, by kind.
        alone: Bits per byte after the last token of the context alone: a dashed line.
    """
    figure, ((axes,),) = panels(4.5, 3.6)
    percent = [100 * rate for rate in rates]
    colours = ("#1f5fa8", "#c8641e", "#2a8a4a", "#8a3fa0", "#707070")
    for (title, values), colour, mark in zip(bits.items(), colours, "osv^D", strict=True):
        axes.plot(percent, values, marker=mark, markersize=4, color=colour, label=title)
    axes.axhline(alone, color="black", linestyle="--", linewidth=1, label="last token alone")
    axes.set_xlabel("letters of the context with a typo, %")
    axes.set_ylabel("continuation, bits per byte")
    axes.set_xticks([0, 2, 5, 10, 20])
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return as_png(figure)
