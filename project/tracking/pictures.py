"""Pictures of what a classifier gets right and wrong, as arrays for files and dashboards.

Shape letters: n images, C channels, H height, W width, K classes.
"""

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Picture = NDArray[np.uint8]  # (height, width, 3)
MOST_MISTAKES = 25
COLUMNS = 5  # of the mistakes
MOST_LABELLED = 30  # classes; with more of them, names and counts could not be read


def confusion_picture(confusion: Tensor, class_names: list[str], title: str) -> Picture:
    """Return the confusion matrix: shares of each true class as shades, counts as numbers.

    Args:
        confusion: int64 (K, K), row true class, column predicted.
    """
    from matplotlib.figure import Figure  # half a second: not needed to train

    counts = confusion.numpy()
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    num_classes = len(counts)
    is_labelled = num_classes <= MOST_LABELLED
    side = min(12.0, 2.5 + 0.45 * num_classes)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    if is_labelled:
        name_classes(axes, class_names)
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if shares[row, column] > 0.5 else "black"
            count = str(counts[row, column])
            axes.text(column, row, count, ha="center", va="center", color=colour, fontsize=8)
    return drawn(figure)


def mistakes_picture(
    images: Tensor,
    labels: Tensor,
    predicted: Tensor,
    confidence: Tensor,
    class_names: list[str],
    title: str,
) -> Picture | None:
    """Return the images that were predicted wrong, the most confident first; None if none was.

    Args:
        images: uint8 (n, C, H, W); C is 1 or 3, of others the first is shown.
        labels, predicted: int64 (n,).
        confidence: Probability of the predicted class, (n,).
    """
    from matplotlib.figure import Figure

    wrong = (labels != predicted).nonzero().flatten()
    if len(wrong) == 0:
        return None
    wrong = wrong[confidence[wrong].argsort(descending=True)]
    shown = wrong[:MOST_MISTAKES]
    rows = -(-len(shown) // COLUMNS)
    figure = Figure(figsize=(1.7 * COLUMNS, 2.1 * rows + 0.6), layout="constrained")
    figure.suptitle(f"{title}: {len(wrong):,} of {len(labels):,} wrong, the most confident first")
    grid = figure.subplots(rows, COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, i in zip(grid.flat, shown.tolist(), strict=False):
        image = images[i] if images.shape[1] == 3 else images[i, :1]
        axes.imshow(image.permute(1, 2, 0).squeeze(2).numpy(), cmap="gray", vmin=0, vmax=255)
        names = f"{class_names[predicted[i]]}, not {class_names[labels[i]]}"
        axes.set_title(f"{names}\n{100 * confidence[i]:.1f} %", fontsize=8)
    return drawn(figure)


def name_classes(axes: "Axes", class_names: list[str]) -> None:
    """Name the rows and columns of a confusion matrix; long names of columns are turned."""
    places, is_long = range(len(class_names)), max(map(len, class_names)) > 2
    axes.set_xticks(places, class_names, rotation=90 if is_long else 0)
    axes.set_yticks(places, class_names)


def drawn(figure: "Figure") -> Picture:
    """Return the pixels of a matplotlib figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def png(picture: Picture) -> bytes:
    from PIL import Image

    content = BytesIO()
    Image.fromarray(picture).save(content, "PNG", optimize=True)
    return content.getvalue()
