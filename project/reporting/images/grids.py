"""Images as a report shows them: small, in rows, with words above, or maps that explain them.

Shape letters: n images, C channels, H height, W width.
"""

from typing import Any

from torch import Tensor

from project.reporting.drawing import as_png, panels

LONGEST = 14  # letters of a class name above one of four images; more would run into the next


def grid_picture(images: Tensor, titles: list[str], columns: int = 4) -> bytes:
    """Return images in rows of `columns`, each with its title above, as PNG.

    Args:
        images: Float (n, C, H, W) in [0, 1], at least one.
        titles: Of one line or more, (n,).
    """
    rows = -(-len(images) // columns)
    lines = 1 + max(title.count("\n") for title in titles)
    height = rows * (4.6 / columns + 0.15 * lines)
    figure, grid = panels(4.6, height, rows, columns)
    for axes in grid.flat[len(images) :]:
        axes.axis("off")
    for axes, image, title in zip(grid.flat, images, titles, strict=False):
        show(axes, image)
        axes.set_title(title, fontsize=8, pad=3)
    return as_png(figure)


def maps_picture(
    pixels: Tensor, said: list[str], maps: dict[str, Tensor], titles: dict[str, str]
) -> bytes:
    """Draw each image with its maps beside it, one method a column, as PNG.

    Args:
        pixels: In [0, 1], (n, C, H, W).
        said: Label of each row, (n,).
        maps: Signed, (n, H, W), each shown red above and blue below 0 on a scale of its own.
        titles: Of the methods, short.
    """
    rows, columns = len(pixels), 1 + len(maps)
    figure, grid = panels(5, 0.4 + 4.6 / columns * rows, rows, columns)
    for row, axes in enumerate(grid):
        show(axes[0], pixels[row])
        axes[0].set_ylabel(said[row], fontsize=8, rotation=0, ha="right", va="center")
        for place, each in zip(axes[1:], maps.values(), strict=True):
            most = each[row].abs().max().item() or 1.0
            place.imshow(each[row].numpy(), cmap="RdBu_r", vmin=-most, vmax=most)
    for place, title in zip(grid[0], ["image", *(titles[name] for name in maps)], strict=True):
        place.set_title(title, fontsize=8)
    for place in grid.flat:
        place.set(xticks=[], yticks=[])
    return as_png(figure)


def show(axes: Any, image: Tensor) -> None:
    """Draw (C, H, W) in [0, 1]: three channels in colour, one in grey, of others the first."""
    shown = image if len(image) == 3 else image[:1]
    axes.imshow(shown.cpu().permute(1, 2, 0).squeeze(2).numpy(), cmap="gray", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
