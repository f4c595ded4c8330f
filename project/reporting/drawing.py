"""The form that all pictures of a report share: their size, their letters, and PNG."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from project.tracking.pictures import drawn, png

OWN, STRANGE = "#1f5fa8", "#c8641e"  # what a model was made for, and what it was not


def panels(
    width: float, height: float, rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Figure, Any]:
    """Return a figure of that size, inches, and an array of its axes (rows, columns).

    Args:
        options: Of `Figure.subplots`.
    """
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, **options)
    for axes in grid.flat:
        axes.tick_params(labelsize=8)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set_fontsize(9)
    return figure, grid


def draw_spreads(axes: Any, rows: Sequence[ArrayLike], edges: NDArray[np.floating[Any]]) -> None:
    """Draw a histogram a row, the first on top: it is of what a model was made for.

    Heights are square roots, so that few examples are seen too; a stroke marks the median.

    Args:
        rows: Values, of any number each.
        edges: Of the bins; values beyond them count for the nearest.
    """
    for row, values in enumerate(reversed(rows)):
        inside = np.clip(values, edges[0], edges[-1])
        counts = np.histogram(inside, edges)[0]
        colour = OWN if row == len(rows) - 1 else STRANGE
        tops = row + 0.85 * np.sqrt(counts / counts.max())
        axes.stairs(tops, edges, baseline=row, fill=True, color=colour)
        axes.plot([np.median(inside)] * 2, [row, row + 0.85], color="black", linewidth=1)
    axes.set_ylim(0, len(rows))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)


def legend_below(figure: Figure, axes: Any) -> None:
    """Name the lines of `axes` below all panels, in two columns."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8)


def as_png(figure: Figure) -> bytes:
    return png(drawn(figure))
