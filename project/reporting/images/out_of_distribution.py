"""Does a classifier know when it is asked about what it was not made for?

The score of an image is how sure the network is of its class (the largest probability: Hendrycks
& Gimpel 2017, arXiv:1610.02136), or its energy, -logsumexp of the logits (Liu et al. 2020,
arXiv:2010.03759). Strange images should have the lower confidence and the higher energy.

Shape letters: N images, C channels, H height, W width, K classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from project.reporting.drawing import as_png, draw_spreads, panels
from project.reporting.findings import (
    Figures,
    Mark,
    Measure,
    Picture,
    Section,
    Table,
    Words,
    capital,
    missing,
    share,
    with_unit,
)
from project.reporting.images import strangers
from project.reporting.images.grids import LONGEST, grid_picture
from project.reporting.images.opened import Images
from project.reporting.means import mean_measure
from project.reporting.separation import FAILS_AUROC, HOLDS_AUROC, separation
from project.reporting.subject import Subject

NAME = "out_of_distribution"
TOO_SURE = 0.90  # mean confidence on any kind, from which nothing "holds", however well it ranks
RULE = f"""\
Each kind of strange images is compared with test images, in pairs. Told apart in pairs (AUROC): \
how often the strange image of a pair gets the lower confidence; 50 % is chance. Taken for \
familiar (FPR at 95 % TPR): the share of strange images that are as sure as 95 % of the test \
images; the test images are the positives there. Both again by the energy, -logsumexp of the \
logits. Holds: by confidence, every kind is told apart in {100 * HOLDS_AUROC:.0f} % of pairs or \
more, and of none is it {100 * TOO_SURE:.0f} % sure or more on average. Fails: some kind in less \
than {100 * FAILS_AUROC:.0f} %. With care: else. A second set with the same classes is shown \
beside them and does not count: those are images to be recognised. The intervals are for more \
images of the same kind: two photographs say nothing of others."""


@dataclass
class Kind:
    """One kind of images, and what the network says of them.

    Attributes:
        key, title: Of the kind.
        pixels: float32 (N, C, H, W) in [0, 1] on the CPU.
        are_pairs: Whether image i was made from test image i.
        labels: int64 (N,), where the images do have classes of the network; None for strange ones.
        confidence, energy, predicted: Of each image, (N,); see `ask`.
    """

    key: str
    title: str
    pixels: Tensor
    are_pairs: bool = False
    labels: Tensor | None = None

    def ask(self, images: Images) -> "Kind":
        logits = images.classify(self.pixels)
        self.confidence, self.energy = scores(logits)
        self.predicted = logits.argmax(dim=1)
        return self

    @property
    def mean_confidence(self) -> float:
        return self.confidence.mean().item()

    @property
    def sureness(self) -> str:
        return with_unit(self.mean_confidence, "%")


def scores(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest probability and the energy, both float64 (N,), for logits (N, K).

    In float64: in float32 most images of a good classifier would tie at a probability of 1.
    """
    logits = logits.double()
    return logits.softmax(dim=1).max(dim=1).values, -logits.logsumexp(dim=1)


def section(subject: Subject) -> Section:
    images = subject.images
    assert images is not None
    split = images.measured_split
    chosen = images.sample(split, subject.n, subject.generator(NAME))
    test = Kind("test", f"{split} images", images.pixels(split, chosen).cpu()).ask(images)
    kinds, reasons = [], []
    for found in subject.track(
        kinds_beside(subject, images, test.pixels), "asking what is strange"
    ):
        if isinstance(found, Kind):
            kinds.append(found.ask(images))
        else:
            reasons.append(found)
    measures = {kind.key: measured(test, kind, subject.seed) for kind in kinds}
    strange = {k.key: k for k in kinds if k.labels is None}
    apart = {key: measures[key][1].value or 0.0 for key in strange}
    worst = strange[min(apart, key=lambda key: apart[key])]
    mark = mark_of(apart[worst.key], max(kind.mean_confidence for kind in strange.values()))
    return Section(
        NAME,
        mark,
        verdict(mark, test, worst, apart[worst.key], list(strange.values())),
        [
            Words(RULE),
            table(test, kinds, measures),
            distributions(test, kinds),
            surest(images, test, kinds),
            Figures([confidence_of(test, subject.seed), *reasons], capital(test.title)),
            *(Figures(measures[kind.key], capital(kind.title)) for kind in kinds),
        ],
    )


def kinds_beside(subject: Subject, images: Images, test: Tensor) -> Iterator[Kind | Measure]:
    """Yield every kind to compare with the test images, or why it is missing."""
    assert images.data.mean is not None
    mean, std = images.data.mean / 255, images.data.std / 255
    draws = [subject.generator(NAME, number) for number in range(6)]
    yield Kind("uniform", "uniform noise", strangers.uniform_noise(test, draws[0]))
    yield Kind(
        "gaussian",
        "noise as bright as the images",
        strangers.gaussian_noise(test, mean, std, draws[1]),
    )
    yield Kind("constant", "a single colour", strangers.constant(test, draws[2]))
    yield Kind("inverted", "inverted images", 1 - test, are_pairs=True)
    shuffled = strangers.block_shuffled(test, draws[3])
    yield Kind("blocks", "images with blocks shuffled", shuffled, are_pairs=True)
    yield Kind("photographs", "pieces of two photographs", strangers.photographs(test, draws[4]))
    others = strangers.other_sets(images.data.dataset, images.data.root)
    for key, title in (("other", "a set with other classes"), ("same", "the same classes")):
        if key not in others:
            yield missing(f"{key}_set", capital(title), "none is there without a download")
            continue
        dataset = others[key]
        try:
            _, split = dataset.load(images.data.root)
        except (ValueError, OSError) as error:
            yield missing(f"{key}_set", capital(title), " ".join(str(error).split()))
            continue
        chosen = torch.randperm(len(split.labels), generator=draws[5])[: len(test)]
        kind = Kind(
            f"{key}_set",
            f"{type(dataset).__name__}, {title}",
            strangers.as_images(split.images[chosen], test),
        )
        if key == "same":
            places = [images.class_names.index(name) for name in dataset.class_names]
            kind.labels = torch.tensor(places)[split.labels[chosen]]
        yield kind


def confidence_of(kind: Kind, seed: int) -> Measure:
    key, title = f"{kind.key}_confidence", f"{capital(kind.title)}: mean confidence"
    return mean_measure(key, title, "%", kind.confidence, seed=seed, how="normal")


def measured(test: Kind, kind: Kind, seed: int) -> list[Measure]:
    """Return confidence, then AUROC and FPR by confidence, then by energy; accuracy where known."""
    found = [confidence_of(kind, seed)]
    for name, familiar, strange in (
        ("confidence", -test.confidence, -kind.confidence),
        ("energy", test.energy, kind.energy),
    ):
        found += separation(
            f"{kind.key}_{name}",
            f"{capital(kind.title)}, by {name}",
            familiar.numpy(),
            strange.numpy(),
            seed,
            are_pairs=kind.are_pairs,
        )
    if kind.labels is not None:
        right = int((kind.predicted == kind.labels).sum())
        found.append(
            share(
                f"{kind.key}_accuracy",
                f"{capital(kind.title)}: recognised",
                right,
                len(kind.labels),
                seed,
            )
        )
    return found


def mark_of(least_auroc: float, most_confidence: float) -> Mark:
    if least_auroc < FAILS_AUROC:
        return "fails"
    return "holds" if least_auroc >= HOLDS_AUROC and most_confidence < TOO_SURE else "caution"


def verdict(mark: Mark, test: Kind, worst: Kind, auroc: float, strange: list[Kind]) -> str:
    said = {
        "holds": "it is nearly always less sure than of its own images",
        "caution": "it is less sure, but not always or not by much",
        "fails": "it does not know",
    }[mark]
    surest = max(strange, key=lambda kind: kind.mean_confidence)
    also = ""
    if surest is not worst:
        also = f" It is surest of {surest.title}: {surest.sureness} on average."
    return (
        f"Asked about what is none of its classes, {said}: of {worst.title} it is "
        f"{worst.sureness} sure on average (of {test.title} "
        f"{test.sureness}), and in {with_unit(auroc, '%')} of pairs it is surer of its "
        f"own, where 50 % is chance.{also}"
    )


def table(test: Kind, kinds: list[Kind], measures: dict[str, list[Measure]]) -> Table:
    rows = [[capital(test.title), test.sureness, "", "", "", ""]]
    rows += [[capital(k.title), *(m.number() for m in measures[k.key][:5])] for k in kinds]
    head = ["Images", "Mean confidence", "AUROC", "FPR95", "AUROC by energy", "FPR95 by energy"]
    return Table(head, rows, "How sure it is, and how often that tells the kinds apart")


def distributions(test: Kind, kinds: list[Kind]) -> Picture:
    """Draw how confidence and energy are spread over each kind, a row a kind."""
    shown = [test, *kinds]
    figure, (halves,) = panels(5, 0.8 + 0.55 * len(shown), columns=2, sharey=True)
    energies = np.concatenate([kind.energy.numpy() for kind in shown])
    low, high = np.quantile(energies, [0.002, 0.998])
    for axes, name, ends in zip(
        halves, ("confidence", "energy"), ((0, 1), (low, high)), strict=True
    ):
        values = [getattr(kind, name).numpy() for kind in shown]
        draw_spreads(axes, values, np.linspace(ends[0], ends[1], 41))
    halves[0].set_yticks(
        [row + 0.3 for row in range(len(shown))], [wrapped(k.title) for k in reversed(shown)]
    )
    halves[0].set_xlabel("confidence")
    halves[0].set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"])
    halves[1].set_xlabel("energy, nats")
    return Picture(
        "out_of_distribution",
        as_png(figure),
        "How sure the network is of each kind of images (left) and their energy (right); a stroke "
        "marks the median; heights are square roots, on a scale of each row's own. A network that "
        "knows its limits has its own images (blue) at the right end of the left half and the left "
        "end of the right half, and the others away from them.",
        "Spread of confidence and energy; mean confidence: "
        + ", ".join(f"{kind.title} {kind.sureness}" for kind in shown),
    )


def surest(images: Images, test: Kind, kinds: list[Kind]) -> Picture:
    """Draw of each kind the image that the network is surest of."""
    shown, titles = [], []
    for kind in (test, *kinds):
        best = int(kind.confidence.argmax())
        shown.append(kind.pixels[best])
        name = images.class_names[int(kind.predicted[best])][:LONGEST]
        titles.append(
            f"{wrapped(kind.title)}\n{name}, {with_unit(kind.confidence[best].item(), '%')}"
        )
    return Picture(
        "out_of_distribution_surest",
        grid_picture(torch.stack(shown), titles, 3),
        "Of each kind, the image that the network is surest of, with the class that it names and "
        "its confidence.",
        "The surest answer to each kind: " + "; ".join(" ".join(title.split()) for title in titles),
    )


def wrapped(text: str) -> str:
    """Return a title in lines that fit beside a panel or above a small image."""
    import textwrap

    return "\n".join(textwrap.wrap(text, 17))
