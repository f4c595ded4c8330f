"""Pictures of the two tests of attributions.

Shape letters: B examples, S steps of a curve, R draws of the weights, L levels of a cascade.
"""

import torch
from torch import Tensor

from project.reporting.drawing import as_png, legend_below, panels
from project.reporting.faithfulness import MOST_RHO, REDRAWS, Faithfulness
from project.reporting.findings import Picture

COLOURS = ("#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#8c564b", "#ff9896")


def curves_picture(
    kinds: dict[str, dict[str, Tensor]], shares: Tensor, titles: dict[str, str], controls: set[str]
) -> bytes:
    """Draw the mean of curves (B, S) over `shares` (S,), controls dashed, as PNG.

    Args:
        kinds: Curves by method, under what the horizontal axis is called.
        titles: Of the methods, the controls among them.
        controls: Names of those; that called `random` is black.
    """
    percent = 100 * shares.numpy()
    figure, grid = panels(5, 4.2, columns=len(kinds), sharey=True)
    for place, (label, curves) in zip(grid[0], kinds.items(), strict=True):
        colours = iter(COLOURS)
        for name in (name for name in titles if name in curves):
            mean = curves[name].mean(dim=0).numpy()
            if name in controls:
                colour = "black" if name == "random" else "0.5"
                place.plot(percent, mean, "--", color=colour, label=titles[name])
            else:
                place.plot(percent, mean, color=next(colours), label=titles[name])
        place.set(xlabel=label, ylim=(0, 1.02), xlim=(0, percent[-1]))
        place.grid(alpha=0.3)
    grid[0, 0].set_ylabel("mean probability")
    legend_below(figure, grid[0, 0])
    return as_png(figure)


def randomisation_picture(
    name: str, found: Faithfulness, titles: dict[str, str], num_layers: int
) -> Picture:
    """Draw how alike attributions stay while more and more layers are drawn anew.

    Args:
        name: Of the picture.
        titles: Of the methods.
        num_layers: Of the network, with weights.
    """
    ends = ", ".join(f"{titles[method]} {found.last_rho(method):.2f}" for method in found.rho)
    return Picture(
        name,
        rho_picture(found.levels, found.rho, titles),
        "Rank correlation of each attribution with that of the same network after its last layers "
        f"were drawn anew, of {num_layers} with weights; bars reach over the {REDRAWS} draws. At 1 "
        "nothing has changed: the method did not look at those weights. At 0 nothing is left. The "
        f"grey band is {MOST_RHO} about 0.",
        f"After all layers: {ends}.",
    )


def rho_picture(levels: list[int], rho: dict[str, Tensor], titles: dict[str, str]) -> bytes:
    """Draw the rank correlations (R, L, B) of each method over the layers drawn anew, as PNG.

    Bars reach over the R draws; the band is where a method follows the model.
    """
    figure, ((axes,),) = panels(5, 3.8)
    axes.axhspan(-MOST_RHO, MOST_RHO, color="0.9")
    for name, colour in zip(titles, COLOURS, strict=False):
        if name not in rho:
            continue
        means = rho[name].nan_to_num(0.0).mean(dim=2)  # (R, L)
        centre = means.mean(dim=0)
        reach = torch.stack([centre - means.min(dim=0)[0], means.max(dim=0)[0] - centre])
        axes.errorbar(
            [0, *levels],
            [1.0, *centre.tolist()],
            yerr=torch.cat([torch.zeros(2, 1), reach], dim=1).clamp(min=0).numpy(),
            color=colour,
            marker="o",
            markersize=3,
            capsize=2,
            label=titles[name],
        )
    axes.set_xlabel("layers drawn anew, from the head down")
    axes.set_ylabel("rank correlation with the trained one")
    axes.set_xticks([0, *levels])
    legend_below(figure, axes)
    return as_png(figure)
