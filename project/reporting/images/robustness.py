"""Section: what changes of an image make a classifier err, chosen to harm and not.

Shape letters: n images, C channels, H height, W width, K classes.
"""

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from project.reporting.findings import (
    Block,
    Figures,
    Mark,
    Measure,
    Picture,
    Section,
    Table,
    Words,
    fact,
    share,
    with_unit,
)
from project.reporting.images.corruptions import CORRUPTIONS, SEVERITIES
from project.reporting.subject import Images, Subject, gradients
from project.tasks.attacks import (
    fgsm,
    is_right,
    loss_gradient,
    pgd,
    smallest_changes,
    square_search,
    strongest_pgd,
    uniform_like,
)
from project.training.intervals import wilson_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GREY = {"0.05": 0.05, "0.1": 0.1, "0.15": 0.15, "0.2": 0.2, "0.3": 0.3}  # Madry et al. 2018: 0.3
COLOUR = {f"{k}/255": k / 255 for k in (1, 2, 4, 8)}  # Madry et al. 2018 on CIFAR-10: 8/255
TOLD = {1: "0.1", 3: "4/255"}  # in the verdict, of a network that was not trained on attacks
STEPS, RESTARTS = 40, 2  # of PGD
STRONG_STEPS, STRONG_RESTARTS, QUERIES = 100, 5, 300  # of what checks it
CHUNK = 250  # images that are attacked at once
ALL_CHECKED = 500  # with more images, a CPU does the costly checks on a quarter, or on CHUNK
SHOWN = 6  # images with the smallest change that fools

HOLDS, FAILS = 0.8, 0.5  # share right under attack, and over all damage
# Masked gradients (Athalye et al. 2018, arXiv:1802.00420; Carlini et al. 2019, arXiv:1902.06705):
SLACK = 0.01  # by which a weaker attack may do better than a stronger one
MORE = 0.05  # that more steps and restarts, or a search without gradients, may find
BOUNDLESS = 0.05  # that may stand when every pixel may become anything
NO_GRADIENT = 0.01  # of the images may have a gradient of exactly 0


@dataclass(frozen=True)
class Check:
    """One sign of masked gradients, looked for."""

    what: str
    found: str
    passes: bool


@dataclass(frozen=True)
class Attacked:
    """What becomes of n images, in each ball.

    Attributes:
        epsilons: By the name that is shown.
        told: The name of the one in the verdict.
        least: Epsilon in which PGD fools each image, (n,); 0 where it is wrong as it is.
        fgsm, noise: Whether each is right, bool (n,), by the name of the epsilon.
    """

    epsilons: dict[str, float]
    told: str
    least: Tensor
    fgsm: dict[str, Tensor]
    noise: dict[str, Tensor]

    def stands(self, name: str) -> Tensor:
        """Return whether each image is right after PGD, bool (n,)."""
        return self.least > self.epsilons[name]

    @property
    def is_right(self) -> Tensor:
        return self.least > 0


def section(subject: Subject) -> Section:
    images = subject.images
    assert images is not None
    split = images.measured_split
    chosen = images.sample(split, subject.n, subject.generator("robustness"))
    pixels, labels = images.pixels(split, chosen), images.labels(split, chosen).to(images.device)
    with gradients():
        attacked = attack(subject, images, pixels, labels)
        checks, strong = masking_checks(subject, images, pixels, labels, attacked)
        shown = smallest_picture(subject, images, pixels, labels, attacked)
    damaged = damage(subject, images, pixels, labels)

    measures = attack_measures(subject, attacked)
    # On fewer images the strongest attack can look weaker: then it is the check on PGD, not more.
    key = f"pgd_{attacked.told}"
    told = strong if strong.n == len(chosen) else next(m for m in measures if m.key == key)
    mark = mark_of(told, damaged, checks)
    count = f"{len(chosen):,} images of the {split} split"
    blocks: list[Block] = [
        Words(
            f"The changes: no pixel of {count} moves by more than epsilon (L-infinity, black is 0 "
            "and white is 1). FGSM is one step up the gradient (Goodfellow et al. 2015); PGD is "
            f"{STEPS} steps from each of {RESTARTS} random starts (Madry et al. 2018), and an "
            "image that falls in a small ball counts as fallen in the larger ones; random noise "
            "moves each pixel by epsilon, up or down by chance. An attack shows what fails, and "
            "never that nothing else does."
        ),
        curve_picture(attacked),
        Figures([*measures, strong], "Share right after a change"),
        *([shown] if shown else []),
        Table(
            ["Could the attack be blind?", "Found", "Passes"],
            [[c.what, c.found, "yes" if c.passes else "no"] for c in checks],
            "Signs of masked gradients",
        ),
        Words(
            "A network can look robust because its gradients lead nowhere (Athalye et al. 2018). "
            "Where a line does not pass, the figures above are too good."
        ),
        fact_of_checks(checks),
        Words(
            "The damage is in the style of MNIST-C (Mu & Gilmer 2019), written anew for any size "
            "of image: not comparable with its published figures. Severity 1 to 5; lengths are "
            f"those of an image of 28 pixels. Shares of {count}, in per cent."
        ),
        damage_table(damaged),
        damage_picture(subject, images, pixels),
        Figures(damage_measures(subject, damaged), "Share right, mean of five severities"),
        Words(rule(attacked)),
    ]
    return Section("robustness", "Robustness", mark, verdict(attacked, told, damaged), blocks)


def chosen_epsilons(subject: Subject, channels: int) -> tuple[dict[str, float], str]:
    """Return the sizes by name, and the one to tell: what it was trained for, if it was."""
    epsilons, told = (GREY if channels == 1 else COLOUR), TOLD.get(channels, "4/255")
    trained_on = getattr(subject.task, "attack", None)
    if trained_on is None or trained_on.epsilon == 0:
        return epsilons, told
    for name, epsilon in epsilons.items():
        if math.isclose(epsilon, trained_on.epsilon, rel_tol=1e-3):
            return epsilons, name
    told = f"{trained_on.epsilon:.3g}"
    by_size = sorted({**epsilons, told: trained_on.epsilon}.items(), key=lambda pair: pair[1])
    return dict(by_size), told


def attack(subject: Subject, images: Images, pixels: Tensor, labels: Tensor) -> Attacked:
    epsilons, told = chosen_epsilons(subject, pixels.shape[1])
    sizes, generator = list(epsilons.values()), subject.generator("attack")
    least = []
    parts = list(zip(pixels.split(CHUNK), labels.split(CHUNK), strict=True))
    for part, part_labels in subject.track(parts, f"attacking with PGD-{STEPS}"):
        least.append(
            smallest_changes(
                images.classifier,
                part,
                part_labels,
                sizes,
                STEPS,
                restarts=RESTARTS,
                generator=generator,
            )[1]
        )
    fast, noisy = {}, {}
    for name, epsilon in subject.track(epsilons.items(), "attacking with FGSM", len(epsilons)):
        fast[name] = torch.cat(
            [
                is_right(images.classifier, fgsm(images.classifier, part, y, epsilon), y)
                for part, y in parts
            ]
        )
        signs = 2 * (uniform_like(pixels, generator) < 0.5).float() - 1
        moved = images.classify((pixels + epsilon * signs).clamp(0, 1))
        noisy[name] = moved.argmax(dim=1) == labels.cpu()
    return Attacked(
        epsilons,
        told,
        torch.cat(least).cpu(),
        {name: right.cpu() for name, right in fast.items()},
        noisy,
    )


def masking_checks(
    subject: Subject, images: Images, pixels: Tensor, labels: Tensor, attacked: Attacked
) -> tuple[list[Check], Measure]:
    """Return the checks, and the share that stands against everything that was tried.

    The costly ones are on some of the images, see `ALL_CHECKED`.
    """
    few = len(pixels)
    if images.device.type == "cpu" and few > ALL_CHECKED:
        few = max(CHUNK, few // 4)
    # Drawn, as the images lie in the order of the data.
    some = torch.randperm(len(pixels), generator=subject.generator("checks"))[:few]
    pixels, labels, classify = pixels[some], labels[some], images.classifier
    generator, told = subject.generator("masking"), attacked.epsilons[attacked.told]
    stands = attacked.stands(attacked.told)[some]
    strong, no_gradient, searched, boundless = stands.clone(), 0, stands.clone(), 0
    places = torch.arange(few).split(CHUNK)
    for part in subject.track(places, f"checking with PGD-{STRONG_STEPS}"):
        x, y = pixels[part], labels[part]
        zero = loss_gradient(classify, x, y).flatten(1).abs().amax(dim=1) == 0
        no_gradient += int(zero.sum())
        free = pgd(classify, x, y, 1.0, 2.5 / STEPS, STEPS, generator=generator)
        boundless += int(is_right(classify, free, y).sum())
        standing = part[stands[part]]
        if len(standing) == 0:
            continue
        x, y = pixels[standing], labels[standing]
        settings = (2.5 * told / STRONG_STEPS, STRONG_STEPS, STRONG_RESTARTS)
        found = strongest_pgd(classify, x, y, told, *settings, generator=generator)
        strong[standing] = is_right(classify, found, y).cpu()
        found = square_search(classify, x, y, told, QUERIES, generator)
        searched[standing] = is_right(classify, found, y).cpu()

    names = attacked.epsilons
    pgd_shares = {name: mean(attacked.stands(name)) for name in names}
    better_fgsm = max(pgd_shares[name] - mean(attacked.fgsm[name]) for name in names)
    better_noise = max(pgd_shares[name] - mean(attacked.noise[name]) for name in names)
    more, without = mean(stands) - mean(strong), mean(stands) - mean(searched)
    size = f"epsilon {attacked.told}, n = {few:,}"
    checks = [
        Check(
            "PGD fools no fewer than FGSM, at any epsilon",
            f"at most {points(better_fgsm)} fewer",
            better_fgsm <= SLACK,
        ),
        Check(
            "PGD fools no fewer than random noise of the same size",
            f"at most {points(better_noise)} fewer",
            better_noise <= SLACK,
        ),
        Check(
            f"PGD-{STRONG_STEPS} with {STRONG_RESTARTS} restarts finds little more ({size})",
            f"{points(more)} more",
            more <= MORE,
        ),
        Check(
            f"A search without gradients, {QUERIES} queries, finds little more ({size})",
            f"{points(without)} more",
            without <= MORE,
        ),
        Check(
            f"Where every pixel may become anything, nothing stands (n = {few:,})",
            f"{with_unit(boundless / few, '%')} stand",
            boundless <= BOUNDLESS * few,
        ),
        Check(
            f"Images have gradients (n = {few:,})",
            f"{no_gradient} are exactly 0",
            no_gradient <= NO_GRADIENT * few,
        ),
    ]
    all_found = strong & searched
    title = f"All attacks together, epsilon {attacked.told}"
    seed = subject.seed
    return checks, share(f"all_{attacked.told}", title, int(all_found.sum()), few, seed)


def damage(
    subject: Subject, images: Images, pixels: Tensor, labels: Tensor
) -> dict[str, list[float]]:
    """Return the share right at each severity, by the name of the damage."""
    shares: dict[str, list[float]] = {}
    for kind in subject.track(CORRUPTIONS, "damaging the images"):
        shares[kind.name] = []
        for severity in SEVERITIES:
            damaged = kind(pixels, severity, subject.generator(kind.name))
            predicted = images.classify(damaged).argmax(dim=1)
            shares[kind.name].append(mean(predicted == labels.cpu()))
    return shares


def mark_of(told: Measure, damaged: dict[str, list[float]], checks: list[Check]) -> Mark:
    assert told.value is not None
    shares = (told.value, overall(damaged))
    if min(shares) < FAILS:
        return "fails"
    passes = all(check.passes for check in checks)
    return "holds" if min(shares) >= HOLDS and passes else "caution"


def rule(attacked: Attacked) -> str:
    holds, fails = with_unit(HOLDS, "%"), with_unit(FAILS, "%")
    return (
        f"The mark: holds where the attacks of epsilon {attacked.told} and the mean over all "
        f"damage each leave {holds} right, and every line on masked gradients passes; fails where "
        f"one leaves less than {fails}; else with care. The attacks are all of them together "
        f"where all were on every image, else PGD-{STEPS}. The epsilon is the one that the "
        "network was trained on, if on attacked images; else 0.1 for grey images and 4/255 for "
        "colour, a third and a half of those that Madry et al. (2018) train for."
    )


def verdict(attacked: Attacked, told: Measure, damaged: dict[str, list[float]]) -> str:
    worst = min(damaged, key=lambda name: mean_of(damaged[name]))
    clean, noise = mean(attacked.is_right), mean(attacked.noise[attacked.told])
    return (
        f"Of {len(attacked.least):,} images {with_unit(clean, '%')} are right, and "
        f"{with_unit(noise, '%')} under random noise that moves each pixel by {attacked.told} of "
        f"the scale from black to white. Changes of that size that are chosen to harm leave "
        f"{told.shown()}. Of {len(damaged)} kinds of damage, {worst} hurts most: "
        f"{with_unit(mean_of(damaged[worst]), '%')} stay right; the mean of all is "
        f"{with_unit(overall(damaged), '%')}."
    )


def attack_measures(subject: Subject, attacked: Attacked) -> list[Measure]:
    count, seed = len(attacked.least), subject.seed
    found = [share("clean", "As they are", int(attacked.is_right.sum()), count, seed)]
    for name in attacked.epsilons:
        pairs = {
            "noise": (attacked.noise[name], "Random noise"),
            "fgsm": (attacked.fgsm[name], "FGSM"),
            "pgd": (attacked.stands(name), f"PGD-{STEPS}"),
        }
        found += [
            share(f"{key}_{name}", f"{title}, epsilon {name}", int(right.sum()), count, seed)
            for key, (right, title) in pairs.items()
        ]
    return found


def fact_of_checks(checks: list[Check]) -> Figures:
    passed = sum(check.passes for check in checks)
    title = f"Signs of masked gradients that are absent, of {len(checks)}"
    return Figures([fact("checks_passed", title, passed)])


def damage_measures(subject: Subject, damaged: dict[str, list[float]]) -> list[Measure]:
    count = min(subject.n, subject.images.count(subject.images.measured_split))  # type: ignore[union-attr]
    measured = functools.partial(damage_measure, n=count, seed=subject.seed)
    kinds = [measured(f"damage_{name}", name, mean_of(damaged[name])) for name in damaged]
    return [*kinds, measured("damage_mean", f"Mean of {len(damaged)} kinds", overall(damaged))]


def damage_measure(key: str, title: str, value: float, n: int, seed: int) -> Measure:
    # Each image was asked several times, which are not independent: counted as one.
    low, high = wilson_interval(round(value * n), n)
    how = "Wilson, as if each image were asked once: too wide rather than too narrow"
    key = key.replace(" ", "_").lower()
    return Measure(key, title, value, "%", n, (min(low, value), max(high, value)), seed, how)


def damage_table(damaged: dict[str, list[float]]) -> Table:
    units = {kind.name: f"{kind.name} ({kind.unit})" for kind in CORRUPTIONS}
    rows = [
        [units[name], *(f"{100 * s:.1f}" for s in shares), f"{100 * mean_of(shares):.1f}"]
        for name, shares in sorted(damaged.items(), key=lambda item: mean_of(item[1]))
    ]
    means = [mean_of([shares[i] for shares in damaged.values()]) for i in range(len(SEVERITIES))]
    rows.append(["mean", *(f"{100 * m:.1f}" for m in means), f"{100 * overall(damaged):.1f}"])
    head = ["Damage", *map(str, SEVERITIES), "Mean"]
    return Table(head, rows, "Share right by severity, %, the worst first")


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


def mean(is_true: Tensor) -> float:
    return is_true.float().mean().item()


def mean_of(shares: list[float]) -> float:
    return sum(shares) / len(shares)


def overall(damaged: dict[str, list[float]]) -> float:
    return mean_of([mean_of(shares) for shares in damaged.values()])


def points(difference: float) -> str:
    return f"{100 * max(0.0, difference):.1f} points"
