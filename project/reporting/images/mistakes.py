"""Pictures of a classifier's mistakes.

Shape letters: n images, C channels, H height, W width, K classes.
"""

import numpy as np
from torch import Tensor

from project.training.pictures import MOST_LABELLED, drawn, longest, png

COLUMNS = 4


def confusion_picture(confusion: Tensor, class_names: list[str]) -> bytes:
    """Return the confusion matrix, PNG: the shades are of the errors alone.

    Args:
        confusion: int64 (K, K), row true class, column predicted.
    """
    from matplotlib.figure import Figure

    counts = confusion.numpy()
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    np.fill_diagonal(shares, 0)
    strongest = max(1.5 * shares.max(), 1e-9)
    num_classes = len(counts)
    side = 4.6 if num_classes <= 12 else min(9.0, 1.6 + 0.28 * num_classes)
    figure = Figure(figsize=(side, side), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(np.where(shares > 0, shares, np.nan), cmap="Oranges", vmin=0, vmax=strongest)
    axes.set(xlabel="predicted", ylabel="true")
    if num_classes <= MOST_LABELLED:
        axes.set_xticks(range(num_classes), class_names, rotation=90 if longest(class_names) else 0)
        axes.set_yticks(range(num_classes), class_names)
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "0.55" if row == column else "black"
            count = str(counts[row, column])
            axes.text(column, row, count, ha="center", va="center", color=colour, fontsize=7)
    return png(drawn(figure))


def errors_picture(images: Tensor, titles: list[str]) -> bytes:
    """Return images in a grid, each with its title above, PNG.

    Args:
        images: Float (n, C, H, W) in [0, 1]; C is 1 or 3, of others the first is shown.
    """
    from matplotlib.figure import Figure

    rows = -(-len(images) // COLUMNS)
    figure = Figure(figsize=(4.8, 1.68 * rows), dpi=150, layout="constrained")
    grid = figure.subplots(rows, COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, image, title in zip(grid.flat, images, titles, strict=False):
        shown = image if len(image) == 3 else image[:1]
        axes.imshow(shown.permute(1, 2, 0).squeeze(2).numpy(), cmap="gray", vmin=0, vmax=1)
        axes.set_title(title, fontsize=8)
    return png(drawn(figure))
