"""Pictures of classes: how many images each has, and which are taken for which.

Shape letter: K classes.
"""

import numpy as np
from torch import Tensor

from project.reporting.drawing import as_png, panels
from project.tracking.pictures import MOST_LABELLED, name_classes

COLOURS = ("#1f5a99", "#d98b1f", "#4d4d4d")


def class_picture(counts: dict[str, list[int]], class_names: list[str]) -> bytes:
    """Return a PNG of the share of each class in each split.

    Args:
        counts: Images of each class (K,), of each split.
    """
    figure, ((axes,),) = panels(4.5, max(2.0, 0.8 + 0.22 * len(class_names)))
    places = range(len(class_names))
    marks = zip(counts.items(), COLOURS, "os^", (-0.2, 0, 0.2), strict=False)
    for (split, numbers), colour, marker, lower in marks:
        shares = [100 * number / max(sum(numbers), 1) for number in numbers]
        rows = [place + lower for place in places]
        axes.plot(shares, rows, marker, color=colour, label=split, markersize=4)
    axes.set_yticks(places, class_names)
    axes.set_ylim(len(class_names) - 0.5, -0.5)
    axes.set_xlim(0, 1.05 * axes.get_xlim()[1])
    axes.set(xlabel="share of the split (%)", ylabel="class")
    axes.grid(axis="x", color="0.9")
    axes.legend(fontsize=8, frameon=False, loc="best")
    return as_png(figure)


def confusion_picture(confusion: Tensor, class_names: list[str]) -> bytes:
    """Return the confusion matrix, PNG: the shades are of the errors alone.

    Args:
        confusion: int64 (K, K), row true class, column predicted.
    """
    counts = confusion.numpy()
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    np.fill_diagonal(shares, 0)
    strongest = max(1.5 * shares.max(), 1e-9)
    num_classes = len(counts)
    side = 4.6 if num_classes <= 12 else min(9.0, 1.6 + 0.28 * num_classes)
    figure, ((axes,),) = panels(side, side)
    axes.imshow(np.where(shares > 0, shares, np.nan), cmap="Oranges", vmin=0, vmax=strongest)
    axes.set(xlabel="predicted", ylabel="true")
    if num_classes <= MOST_LABELLED:
        name_classes(axes, class_names)
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "0.55" if row == column else "black"
            count = str(counts[row, column])
            axes.text(column, row, count, ha="center", va="center", color=colour, fontsize=7)
    return as_png(figure)
