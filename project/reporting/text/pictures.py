"""Text with a colour behind each token, and where attention heads look.

Shape letters: T tokens, N heads.
"""

import warnings
from typing import Any

from torch import Tensor

from project.tracking.pictures import drawn, png

COLUMNS = 48  # characters of a line
SHOWN_AS = str.maketrans({"\n": "↵", "\r": "↵", "\t": "→", " ": "·"})

Row = tuple[str, list[str], Tensor]  # a heading; tokens and their numbers (T,), or none of either


def text_picture(rows: list[Row]) -> bytes:
    """Draw tokens in the order of the text, red above 0 and blue below, as PNG.

    Each row has a scale of its own, symmetrical about 0 (white). Spaces are shown as dots.
    """
    from matplotlib.figure import Figure

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
        return png(drawn(figure))


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
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

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
    """Draw the mean loss over the tokens of context, with intervals, as PNG.

    Args:
        losses, intervals: At each of `lengths`, nats.
        far: Length from which on more context hardly helps, marked.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    below = [max(mean - low, 0) for mean, (low, _) in zip(losses, intervals, strict=True)]
    above = [max(high - mean, 0) for mean, (_, high) in zip(losses, intervals, strict=True)]
    axes.errorbar(lengths, losses, [below, above], fmt="o-", markersize=4, capsize=3)
    if far is not None:
        axes.axvline(far, linestyle="--", color="0.4")
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [str(length) for length in lengths])
    axes.minorticks_off()
    axes.set_xlabel("tokens of context", fontsize=9)
    axes.set_ylabel("loss of the next token, nats", fontsize=9)
    axes.set_ylim(bottom=0)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    return png(drawn(figure))


def heads_picture(maps: dict[str, Tensor]) -> bytes:
    """Draw attention weights (T, T) by the name of the head, two in a row, as PNG."""
    from matplotlib.figure import Figure

    rows = -(-len(maps) // 2)
    figure = Figure(figsize=(5, 0.3 + 2.5 * rows), dpi=150, layout="constrained")
    grid = figure.subplots(rows, 2, squeeze=False)
    for place in grid.flat:
        place.axis("off")
    for place, (name, weights) in zip(grid.flat, maps.items(), strict=False):
        place.axis("on")
        # The square root, so that weights of a hundredth are seen too.
        place.imshow(weights.sqrt().numpy(), cmap="Blues", vmin=0, vmax=1)
        place.set_title(name, fontsize=9)
        place.set_xlabel("position looked at", fontsize=8)
        place.set_ylabel("position that looks", fontsize=8)
        place.tick_params(labelsize=8)
    return png(drawn(figure))
