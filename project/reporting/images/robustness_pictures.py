"""Pictures of the section on robustness.

Shape letters: n images, C channels, H height, W width.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from project.reporting.findings import Picture, with_unit
from project.reporting.images.attacked import STEPS, Attacked, mean
from project.reporting.images.corruptions import CORRUPTIONS
from project.reporting.subject import Images, Subject
from project.tasks.attacks import smallest_changes
from project.training.intervals import wilson_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 6  # images with the smallest change that fools


def curve_picture(attacked: Attacked) -> Picture:
    """Return the share right over epsilon, for noise, FGSM and PGD."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 3.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    sizes = [0.0, *attacked.epsilons.values()]
    count = len(attacked.least)
    lines = [
        ("random noise", "tab:gray", "o", [attacked.noise[name] for name in attacked.epsilons]),
        ("FGSM", "tab:orange", "s", [attacked.fgsm[name] for name in attacked.epsilons]),
        (f"PGD-{STEPS}", "tab:blue", "^", [attacked.stands(name) for name in attacked.epsilons]),
    ]
    for title, colour, marker, rights in lines:
        totals = [int(right.sum()) for right in [attacked.is_right, *rights]]
        low, high = zip(*(wilson_interval(total, count) for total in totals), strict=True)
        shares = [100 * total / count for total in totals]
        axes.plot(sizes, shares, color=colour, marker=marker, markersize=4, label=title)
        axes.fill_between(
            sizes, [100 * e for e in low], [100 * e for e in high], color=colour, alpha=0.2, lw=0
        )
    axes.set_xticks(sizes, ["0", *attacked.epsilons], fontsize=8)
    axes.set(ylim=(-3, 103))
    axes.set_xlabel("largest change of a pixel (black 0, white 1)", fontsize=9)
    axes.set_ylabel("right, %", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    last = list(attacked.epsilons)[-1]
    return Picture(
        "attacks",
        png_of(figure),
        f"Share of {count:,} images that stay right, over the size of the change; shaded: 95 % "
        "intervals. The further the line of PGD lies below that of noise, the more the direction "
        "of a change matters and not its size.",
        f"Curves of accuracy. At {last} noise leaves {with_unit(mean(attacked.noise[last]), '%')}, "
        f"FGSM {with_unit(mean(attacked.fgsm[last]), '%')}, PGD "
        f"{with_unit(mean(attacked.stands(last)), '%')}.",
    )


def smallest_picture(
    subject: Subject, images: Images, pixels: Tensor, labels: Tensor, attacked: Attacked
) -> Picture | None:
    """Return a few images with the smallest change that was found to fool; None if none was."""
    generator = subject.generator("shown")
    fooled = (attacked.is_right & attacked.least.isfinite()).nonzero().flatten()
    if len(fooled) == 0:
        return None
    some = fooled[torch.randperm(len(fooled), generator=generator)[:SHOWN]]
    before, true = pixels[some], labels[some]
    sizes = [max(attacked.epsilons.values()) * k / 30 for k in range(1, 31)]
    after, least = smallest_changes(
        images.classifier, before, true, sizes, STEPS, generator=generator
    )
    before_names = [images.class_names[i] for i in true.tolist()]
    taken_for = images.classify(after).argmax(dim=1).tolist()
    after_names = [images.class_names[i] for i in taken_for]
    least_names = [f"{epsilon:.3f}" for epsilon in least.tolist()]
    change = (after - before).cpu()
    largest = change.flatten(1).abs().amax(dim=1).clamp(min=1e-9)[:, None, None, None]
    rows = [
        ("image", before.cpu(), before_names),
        ("change", 0.5 + 0.5 * change / largest, least_names),
        ("changed", after.cpu(), after_names),
    ]
    return Picture(
        "smallest_changes",
        png_of(grid_figure(rows)),
        "Images drawn among those that PGD fooled. Above: as they are, with the true class. "
        "Middle: the smallest change that was found, grey where nothing changes, with its "
        "epsilon. Below: image and change together, with the class that it is taken for.",
        "Pairs of images that look alike and are told apart by the model: "
        + ", ".join(f"{a} taken for {b}" for a, b in zip(before_names, after_names, strict=True)),
    )


def damage_picture(subject: Subject, images: Images, pixels: Tensor) -> Picture:
    """Return one image under each kind of damage, at severity 3."""
    one = torch.randperm(len(pixels), generator=subject.generator("damaged"))[:1]
    image = pixels[one]
    damaged = [kind(image, 3, subject.generator(kind.name)).cpu() for kind in CORRUPTIONS]
    names = ["as it is", *(kind.name for kind in CORRUPTIONS)]
    everything = torch.cat([image.cpu(), *damaged])
    rows = [("", everything[i : i + 4], names[i : i + 4]) for i in range(0, len(everything), 4)]
    return Picture(
        "damage",
        png_of(grid_figure(rows)),
        "One image, and what each kind of damage makes of it at severity 3 of 5.",
        f"A grid of {len(everything)} images: one as it is, the others damaged.",
    )


def grid_figure(rows: list[tuple[str, Tensor, list[str]]]) -> "Figure":
    """Return images (n, C, H, W) in [0, 1] in rows, each with a name above it."""
    from matplotlib.figure import Figure

    columns = max(len(images) for _, images, _ in rows)
    figure = Figure(figsize=(4.6, 1.1 * len(rows) * 4.2 / columns), dpi=150, layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
    for line, (title, images, names) in zip(grid, rows, strict=True):
        line[0].set_ylabel(title, fontsize=8)
        for axes, image, name in zip(line, images, names, strict=False):
            shown = image if image.shape[0] == 3 else image[:1]
            axes.imshow(shown.permute(1, 2, 0).squeeze(2).numpy(), cmap="gray", vmin=0, vmax=1)
            axes.set_title(name, fontsize=8, pad=2)
    return figure


def png_of(figure: "Figure") -> bytes:
    from project.training.pictures import drawn, png

    return png(drawn(figure))
