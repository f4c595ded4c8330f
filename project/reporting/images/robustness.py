"""Section: what changes of an image make a classifier err, chosen to harm and not.

Shape letters: n images, S severities, C channels, H height, W width.
"""

import torch
from torch import Tensor

from project.intervals import mean_interval, wilson_interval
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
from project.reporting.images.opened import Images
from project.reporting.images.robustness_pictures import (
    curve_picture,
    damage_picture,
    smallest_picture,
)
from project.reporting.subject import Subject, gradients

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
    return Section("robustness", mark, said, blocks)


def damage(subject: Subject, images: Images, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return whether each image is right at each severity, bool (S, n), for each damage."""
    right = {}
    for kind in subject.track(CORRUPTIONS, "damaging the images"):
        predicted = [
            images.classify(kind(pixels, severity, subject.generator(kind.name))).argmax(dim=1)
            for severity in SEVERITIES
        ]
        right[kind.name] = torch.stack(predicted) == labels.cpu()
    return right


def mark_of(told: Measure, damaged: dict[str, Tensor], checks: list[Check]) -> Mark:
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
    attacked: Attacked, told: Measure, damaged: dict[str, Tensor], checks: list[Check]
) -> str:
    worst = min(damaged, key=lambda name: mean(damaged[name]))
    noise = mean(attacked.noise[attacked.told])
    said = (
        f"When each pixel moves by at most {attacked.told} of the way from black to white so as to "
        f"mislead, {told.shown()} are still right; moved at random, {with_unit(noise, '%')}. Under "
        f"{len(damaged)} kinds of damage, such as noise and rotation, {percent(overall(damaged))} "
        f"% on average; {worst} is the worst ({percent(mean(damaged[worst]))} %)."
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


def damage_measures(subject: Subject, damaged: dict[str, Tensor]) -> list[Measure]:
    kinds = [damage_measure(subject, name, right) for name, right in damaged.items()]
    return [*kinds, damage_measure(subject, "mean", torch.cat(list(damaged.values())))]


def damage_measure(subject: Subject, name: str, right: Tensor) -> Measure:
    """Return the share right of (S, n), with the interval over the n images, each asked S times."""
    each, value, n = right.float().mean(dim=0), mean(right), right.shape[1]
    interval, how = mean_interval(each.tolist(), [1] * n), "normal, over images"
    if interval is None or value in (0.0, 1.0):
        interval, how = wilson_interval(round(value * n), n), "Wilson"
    interval = max(0.0, interval[0]), min(1.0, interval[1])
    key = f"damage_{name}".replace(" ", "_").lower()
    title = "Mean of all kinds" if name == "mean" else name
    return Measure(key, title, value, "%", n, interval, subject.seed, how)


def damage_table(damaged: dict[str, Tensor]) -> Table:
    units = {kind.name: f"{kind.name} ({kind.unit})" for kind in CORRUPTIONS}
    by_share = sorted(damaged, key=lambda name: mean(damaged[name]))
    rows = {units[name]: damaged[name] for name in by_share}
    rows["mean"] = torch.cat(list(damaged.values()), dim=1)
    cells = [
        [title, *(f"{100 * mean(line):.1f}" for line in (*right, right))]
        for title, right in rows.items()
    ]
    head = ["Damage", *map(str, SEVERITIES), "Mean"]
    return Table(head, cells, "Share right by severity, %, the worst first")


def overall(damaged: dict[str, Tensor]) -> float:
    return mean(torch.stack(list(damaged.values())))
