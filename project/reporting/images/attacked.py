"""What becomes of images under attack, and whether the attack could have been blind.

Shape letters: n images, C channels, H height, W width.
"""

import math
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from project.reporting.findings import with_unit
from project.reporting.images.attacks import fgsm, smallest_changes, square_search, strongest_pgd
from project.reporting.images.opened import Images
from project.reporting.subject import Subject
from project.tasks.attacks import Classify, is_right, loss_gradient, pgd, uniform_like

GREY = {"0.05": 0.05, "0.1": 0.1, "0.15": 0.15, "0.2": 0.2, "0.3": 0.3}  # Madry et al. 2018: 0.3
COLOUR = {f"{k}/255": k / 255 for k in (1, 2, 4, 8)}  # Madry et al. 2018 on CIFAR-10: 8/255
TOLD = {1: "0.1", 3: "4/255"}  # in the verdict, of a network that was not trained on attacks
STEPS, RESTARTS = 40, 2  # of PGD
STRONG_STEPS, STRONG_RESTARTS, QUERIES = 100, 5, 300  # of what checks it
CHUNK = 250  # images that are attacked at once
ALL_CHECKED = 500  # with more images, a CPU does the costly checks on a quarter, or on CHUNK

# Masked gradients (Athalye et al. 2018, arXiv:1802.00420; Carlini et al. 2019, arXiv:1902.06705):
SLACK = 0.01  # by which a weaker attack may do better than a stronger one
MORE = 0.05  # that more steps and restarts, or a search without gradients, may find
BOUNDLESS = 0.05  # that may stand when every pixel may become anything
NO_GRADIENT = 0.01  # of the images may have a gradient of exactly 0


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


@dataclass(frozen=True)
class Check:
    """One sign of masked gradients, looked for."""

    what: str
    found: str
    passes: bool


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
    classifier, least = images.classifier, []
    parts = list(zip(pixels.split(CHUNK), labels.split(CHUNK), strict=True))
    for x, y in subject.track(parts, f"attacking with PGD-{STEPS}"):
        least.append(smallest_changes(classifier, x, y, sizes, STEPS, RESTARTS, generator)[1])
    fast, noisy = {}, {}
    for name, epsilon in subject.track(epsilons.items(), "attacking with FGSM", len(epsilons)):
        right = [is_right(classifier, fgsm(classifier, x, y, epsilon), y) for x, y in parts]
        fast[name] = torch.cat(right).cpu()
        signs = 2 * (uniform_like(pixels, generator) < 0.5).float() - 1
        moved = images.classify((pixels + epsilon * signs).clamp(0, 1))
        noisy[name] = moved.argmax(dim=1) == labels.cpu()
    return Attacked(epsilons, told, torch.cat(least).cpu(), fast, noisy)


def closer_look(
    classify: Classify,
    pixels: Tensor,
    labels: Tensor,
    stands: Tensor,
    epsilon: float,
    generator: torch.Generator,
) -> Counter[str]:
    """Return how many of n images show what a blind attack would.

    Args:
        pixels: (n, C, H, W) in [0, 1].
        stands: Whether each is right after `pgd` in the ball of `epsilon`, bool (n,) on the CPU.

    Returns:
        `no_gradient`, whose gradient is exactly 0; `boundless`, right though every pixel may become
        anything; `stands`; and of those `strong`, right after more steps and restarts, `searched`,
        after a search without gradients, and `all`, after both.
    """
    zero = loss_gradient(classify, pixels, labels).flatten(1).abs().amax(dim=1) == 0
    free = pgd(classify, pixels, labels, 1.0, 2.5 / STEPS, STEPS, generator=generator)
    counts = Counter(
        images=len(pixels),
        no_gradient=int(zero.sum()),
        boundless=int(is_right(classify, free, labels).sum()),
        stands=int(stands.sum()),
    )
    if counts["stands"]:
        x, y = pixels[stands.to(pixels.device)], labels[stands.to(labels.device)]
        settings = (2.5 * epsilon / STRONG_STEPS, STRONG_STEPS, STRONG_RESTARTS)
        found = strongest_pgd(classify, x, y, epsilon, *settings, generator)
        strong = is_right(classify, found, y)
        found = square_search(classify, x, y, epsilon, QUERIES, generator)
        searched = is_right(classify, found, y)
        pairs = (("strong", strong), ("searched", searched), ("all", strong & searched))
        counts.update({name: int(right.sum()) for name, right in pairs})
    return counts


def looked_closer(
    subject: Subject, images: Images, pixels: Tensor, labels: Tensor, attacked: Attacked
) -> Counter[str]:
    """Return the counts of `closer_look` over the images, or some of them: see `ALL_CHECKED`."""
    few = len(pixels)
    if images.device.type == "cpu" and few > ALL_CHECKED:
        few = max(CHUNK, few // 4)
    # Drawn, as the images lie in the order of the data.
    some = torch.randperm(len(pixels), generator=subject.generator("checks"))[:few]
    stands, generator = attacked.stands(attacked.told), subject.generator("masking")
    counts: Counter[str] = Counter()
    for part in subject.track(some.split(CHUNK), f"checking with PGD-{STRONG_STEPS}"):
        counts.update(
            closer_look(
                images.classifier,
                pixels[part],
                labels[part],
                stands[part],
                attacked.epsilons[attacked.told],
                generator,
            )
        )
    return counts


def masking_checks(attacked: Attacked, counts: Counter[str]) -> list[Check]:
    few = counts["images"]
    names = attacked.epsilons
    better_fgsm, better_noise = (
        max(mean(attacked.stands(name)) - mean(weaker[name]) for name in names)
        for weaker in (attacked.fgsm, attacked.noise)
    )
    more, without = ((counts["stands"] - counts[name]) / few for name in ("strong", "searched"))
    size = f"epsilon {attacked.told}, n = {few:,}"
    strong = f"PGD-{STRONG_STEPS} with {STRONG_RESTARTS} restarts"
    return [
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
        Check(f"{strong} finds little more ({size})", f"{points(more)} more", more <= MORE),
        Check(
            f"A search without gradients, {QUERIES} queries, finds little more ({size})",
            f"{points(without)} more",
            without <= MORE,
        ),
        Check(
            f"Where every pixel may become anything, nothing stands (n = {few:,})",
            f"{with_unit(counts['boundless'] / few, '%')} stand",
            counts["boundless"] <= BOUNDLESS * few,
        ),
        Check(
            f"Images have gradients (n = {few:,})",
            f"{counts['no_gradient']:,} are exactly 0",
            counts["no_gradient"] <= NO_GRADIENT * few,
        ),
    ]


def mean(is_true: Tensor) -> float:
    return is_true.float().mean().item()


def points(difference: float) -> str:
    return f"{100 * max(0.0, difference):.1f} points"
