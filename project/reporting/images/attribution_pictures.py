"""A grid of images with the maps that explain them.

Shape letters: n images, C channels, H height, W width.
"""

from torch import Tensor

from project.reporting.images.grids import show
from project.training.pictures import drawn, png


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
    from matplotlib.figure import Figure

    rows, columns = len(pixels), 1 + len(maps)
    figure = Figure(figsize=(5, 0.4 + 4.6 / columns * rows), dpi=150, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
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
    return png(drawn(figure))
