"""Pictures of a set of images: its classes, pairs that are nearly the same, doubtful labels.

Shape letters: n images, C channels, H height, W width, K classes.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from project.training.pictures import drawn, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 150
COLUMNS = 5
COLOURS = ("#1f5a99", "#d98b1f", "#4d4d4d")


def class_picture(counts: dict[str, list[int]], class_names: list[str]) -> bytes:
    """Return a PNG of the share of each class in each split.

    Args:
        counts: Images of each class (K,), of each split.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, max(2.0, 0.8 + 0.22 * len(class_names))), dpi=DPI)
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    places = range(len(class_names))
    marks = zip(counts.items(), COLOURS, "os^", (-0.2, 0, 0.2), strict=False)
    for (split, numbers), colour, marker, lower in marks:
        shares = [100 * number / max(sum(numbers), 1) for number in numbers]
        rows = [place + lower for place in places]
        axes.plot(shares, rows, marker, color=colour, label=split, markersize=4)
    axes.set_yticks(places, class_names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel("share of the split (%)", fontsize=9)
    axes.set_ylabel("class", fontsize=9)
    axes.grid(axis="x", color="0.9")
    axes.legend(fontsize=8, frameon=False, loc="best")
    return png(drawn(figure))


def pairs_picture(pairs: list[tuple[Tensor, Tensor]], texts: list[tuple[str, str, str]]) -> bytes:
    """Return a PNG with a pair a column: above the image asked about, below its nearest.

    Args:
        pairs: uint8 (C, H, W) each.
        texts: Above, between and below each pair.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.15 * len(pairs), 3.1), dpi=DPI, layout="constrained")
    grid = figure.subplots(2, len(pairs), squeeze=False)
    for column, ((above, below), (first, second, third)) in enumerate(
        zip(pairs, texts, strict=True)
    ):
        show(grid[0, column], above)
        show(grid[1, column], below)
        grid[0, column].set_title(first, fontsize=8)
        grid[1, column].set_title(second, fontsize=8)
        grid[1, column].set_xlabel(third, fontsize=8)
    return png(drawn(figure))


def labels_picture(images: Tensor, texts: list[str]) -> bytes:
    """Return a PNG of images in a grid, a text above each.

    Args:
        images: uint8 (n, C, H, W), at least one.
    """
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(images))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(1.15 * columns, 1.65 * rows), dpi=DPI, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, image, text in zip(grid.flat, images, texts, strict=False):
        axes.axis("on")
        show(axes, image)
        axes.set_title(text, fontsize=8)
    return png(drawn(figure))


def show(axes: "Axes | Any", image: Tensor) -> None:
    """Draw uint8 (C, H, W): one channel grey, three in colour, of others the first."""
    shown = (image if len(image) == 3 else image[:1]).cpu().permute(1, 2, 0).squeeze(2)
    axes.imshow(shown.to(torch.uint8).numpy(), cmap="gray", vmin=0, vmax=255)
    axes.set_xticks([])
    axes.set_yticks([])
