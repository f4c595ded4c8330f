"""Images as a report shows them: small, in rows, with a few words above each.

Shape letters: n images, C channels, H height, W width.
"""

from typing import TYPE_CHECKING, Any

from torch import Tensor

from project.training.pictures import drawn, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LONGEST = 14  # letters of a class name above one of four images; more would run into the next


def grid_picture(images: Tensor, titles: list[str], columns: int = 4) -> bytes:
    """Return images in rows of `columns`, each with its title above, as PNG.

    Args:
        images: Float (n, C, H, W) in [0, 1], at least one.
        titles: Of one line or more, (n,).
    """
    from matplotlib.figure import Figure  # half a second: not needed to train

    rows = -(-len(images) // columns)
    lines = 1 + max(title.count("\n") for title in titles)
    height = rows * (4.6 / columns + 0.15 * lines)
    figure = Figure(figsize=(4.6, height), dpi=150, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(images) :]:
        axes.axis("off")
    for axes, image, title in zip(grid.flat, images, titles, strict=False):
        show(axes, image)
        axes.set_title(title, fontsize=8, pad=3)
    return png(drawn(figure))


def show(axes: "Axes | Any", image: Tensor) -> None:
    """Draw (C, H, W) in [0, 1]: three channels in colour, one in grey, of others the first."""
    shown = image if len(image) == 3 else image[:1]
    axes.imshow(shown.cpu().permute(1, 2, 0).squeeze(2).numpy(), cmap="gray", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
