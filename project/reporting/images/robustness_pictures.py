"""Pictures of the section on robustness.

Shape letters: n images, C channels, H height, W width.
"""

import torch
from torch import Tensor

from project.intervals import wilson_interval
from project.reporting.drawing import as_png, panels
from project.reporting.findings import Picture, with_unit
from project.reporting.images.attacked import RESTARTS, STEPS, Attacked, mean
from project.reporting.images.attacks import smallest_changes
from project.reporting.images.corruptions import CORRUPTIONS
from project.reporting.images.grids import LONGEST, grid_picture
from project.reporting.images.opened import Images
from project.reporting.subject import Subject

SHOWN = 4  # images with the smallest change that fools
SIZES = 31  # of that change, up to the largest epsilon


def curve_picture(attacked: Attacked) -> Picture:
    """Return the share right over epsilon, for noise, FGSM and PGD."""
    figure, ((axes,),) = panels(4.5, 3.2)
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
    axes.set_xticks(sizes, ["0", *attacked.epsilons])
    axes.set(xlabel="largest change of a pixel (black 0, white 1)", ylabel="right, %")
    axes.set(ylim=(-3, 103))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    last = list(attacked.epsilons)[-1]
    return Picture(
        "attacks",
        as_png(figure),
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
    sizes = [max(attacked.epsilons.values()) * k / SIZES for k in range(1, SIZES + 1)]
    after, least = smallest_changes(
        images.classifier, before, true, sizes, STEPS, RESTARTS, generator
    )
    taken_for = images.classify(after).argmax(dim=1)
    first, last = (
        [images.class_names[i][:LONGEST] for i in classes.tolist()] for classes in (true, taken_for)
    )
    change = after - before
    largest = change.flatten(1).abs().amax(dim=1).clamp(min=1e-9)[:, None, None, None]
    titles = [*first, *(f"at most {e:.3f}" for e in least.tolist()), *last]
    return Picture(
        "smallest_changes",
        grid_picture(torch.cat([before, 0.5 + 0.5 * change / largest, after]), titles, len(some)),
        "Images drawn among those that PGD fooled. Above: as they are, with the true class. "
        "Middle: the smallest change that was found, grey where nothing changes, with the most "
        "that a pixel moves (black 0, white 1). Below: both together, with the class that they "
        "are taken for.",
        "Pairs of images that look alike and are told apart by the model: "
        + ", ".join(f"{a} taken for {b}" for a, b in zip(first, last, strict=True)),
    )


def damage_picture(subject: Subject, images: Images, pixels: Tensor) -> Picture:
    """Return one image under each kind of damage, at severity 3."""
    one = torch.randperm(len(pixels), generator=subject.generator("damaged"))[:1]
    image = pixels[one]
    damaged = [kind(image, 3, subject.generator(kind.name)).cpu() for kind in CORRUPTIONS]
    names = ["as it is", *(kind.name for kind in CORRUPTIONS)]
    return Picture(
        "damage",
        grid_picture(torch.cat([image.cpu(), *damaged]), names),
        "One image, and what each kind of damage makes of it at severity 3 of 5.",
        f"A grid of {len(names)} images: one as it is, the others damaged.",
    )
