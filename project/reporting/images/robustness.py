"""Section: what changes of an image make a classifier err, chosen to harm and not.

Shape letters: n images, C channels, H height, W width, K classes.
"""

import functools

from torch import Tensor

from project.reporting.findings import (
    Block,
    Figures,
    Mark,
    Measure,
    Section,
    Table,
    Words,
    percent,
    share,
    with_unit,
)
from project.reporting.images.attacked import (
    RESTARTS,
    STEPS,
    Attacked,
    Check,
    attack,
    looked_closer,
    masking_checks,
    mean,
)
from project.reporting.images.corruptions import CORRUPTIONS, SEVERITIES
from project.reporting.images.robustness_pictures import (
    curve_picture,
    damage_picture,
    smallest_picture,
)
from project.reporting.subject import Images, Subject, gradients
from project.training.intervals import wilson_interval

HOLDS, FAILS = 0.8, 0.5  # share right under attack, and over all damage


def section(subject: Subject) -> Section:
    images = subject.images
    assert images is not None
    split = images.measured_split
    chosen = images.sample(split, subject.n, subject.generator("robustness"))
    pixels, labels = images.pixels(split, chosen), images.labels(split, chosen).to(images.device)
    with gradients():
        attacked = attack(subject, images, pixels, labels)
        counts = looked_closer(subject, images, pixels, labels, attacked)
        shown = smallest_picture(subject, images, pixels, labels, attacked)
    damaged = damage(subject, images, pixels, labels)

    checks = masking_checks(attacked, counts)
    title = f"Both PGDs and the search without gradients, epsilon {attacked.told}"
    strong = share(f"all_{attacked.told}", title, counts["all"], counts["images"], subject.seed)
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
            f"{STEPS} steps from each of {RESTARTS} random starts (Madry et al. 2018); an image "
            "that falls at one epsilon counts as fallen at the larger ones, and one that stands as "
            "standing at the smaller. Random noise moves each pixel by epsilon, up or down by "
            "chance. An attack shows what fails, and never that nothing else does."
        ),
        curve_picture(attacked),
        Figures([*measures, strong], "Share right after a change"),
        *([shown] if shown else []),
        *check_blocks(checks),
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
    said = verdict(attacked, told, damaged, checks)
    return Section("robustness", "Robustness", mark, said, blocks)


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


def verdict(
    attacked: Attacked, told: Measure, damaged: dict[str, list[float]], checks: list[Check]
) -> str:
    worst = min(damaged, key=lambda name: mean_of(damaged[name]))
    noise = mean(attacked.noise[attacked.told])
    said = (
        f"When each pixel moves by at most {attacked.told} of the way from black to white so as to "
        f"mislead, {told.shown()} are still right; moved at random, {with_unit(noise, '%')}. Under "
        f"{len(damaged)} kinds of damage, such as noise and rotation, {percent(overall(damaged))} "
        f"% on average; {worst} is the worst ({percent(mean_of(damaged[worst]))} %)."
    )
    if all(check.passes for check in checks):
        return said
    return f"{said} The attack may be blind (signs of masked gradients): trust it less."


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


def check_blocks(checks: list[Check]) -> list[Block]:
    return [
        Table(
            ["Could the attack be blind?", "Found", "Passes"],
            [[check.what, check.found, "yes" if check.passes else "no"] for check in checks],
            "Signs of masked gradients",
        ),
        Words(
            "A network can look robust because its gradients lead nowhere (Athalye et al. 2018). "
            "Where a line does not pass, the figures above are too good."
        ),
    ]


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


def mean_of(shares: list[float]) -> float:
    return sum(shares) / len(shares)


def overall(damaged: dict[str, list[float]]) -> float:
    return mean_of([mean_of(shares) for shares in damaged.values()])
