"""Are the images and their labels sound? Counts, copies, near copies, and labels in doubt.

Shape letters: N images of a split, M of train and validation together, K classes.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from project.reporting.findings import (
    Block,
    Figures,
    Mark,
    Measure,
    Part,
    Picture,
    Section,
    Table,
    Words,
    fact,
    missing,
    percent,
    section_of,
    share,
)
from project.reporting.images.class_pictures import class_picture
from project.reporting.images.grids import LONGEST, grid_picture
from project.reporting.images.label_quality import LabelQuality, from_folds, label_quality
from project.reporting.images.neighbours import (
    class_shares,
    drawn,
    known_images,
    nearest,
    same_images,
)
from project.reporting.images.opened import Images
from project.reporting.subject import Subject

COPIED_FAILS = 0.01  # of the test images, with a copy among those that were trained or chosen on
IMBALANCE = 10.0  # largest class over smallest
FLAGGED = 0.01  # of the measured labels, called wrong by confident learning
NEIGHBOURS = 10  # that vote on a training label
PAIRS, COPIES = 4, 20  # shown: nearest pairs, groups of copies
DOUBTED, SHOWN = 0.5, 8  # belief up to which labels are shown, and how many of a split
FEW = 4  # of the measured split, whose errors Performance shows already
MOST_CLASSES = 62  # in the picture of classes

RULE = Words(
    f"The mark: fails where {100 * COPIED_FAILS:.0f} % or more of the test images are copies of "
    "images that were trained or chosen on, since the test then measures memory; with care where "
    "any image is in two splits, equal images have different labels, the largest class has "
    f"{IMBALANCE:.0f} times the images of the smallest, or confident learning calls "
    f"{100 * FLAGGED:.0f} % or more of the labels of the measured split wrong; else it holds. "
    "Near copies are shown and not judged: how near two images may be depends on what they show. "
    "Confident learning is careful: it calls few labels wrong, and of a weak model more than of a "
    "strong one."
)


def section(subject: Subject) -> Section:
    assert subject.images is not None
    images = subject.images
    parts = [
        classes(images),
        copies(images),
        neighbourhood(subject, images),
        doubtful_labels(subject, images),
    ]
    return section_of("data", parts, RULE)


def classes(images: Images) -> Part:
    """Count the images of each class in each split."""
    names = images.class_names
    counts = {
        split: torch.bincount(images.labels(split), minlength=len(names)).tolist()
        for split in images.splits
    }
    rows = [[name, *(f"{counts[split][k]:,}" for split in counts)] for k, name in enumerate(names)]
    rows.append(["all", *(f"{sum(numbers):,}" for numbers in counts.values())])
    fewest, most = min(counts["train"]), max(counts["train"])
    measures = [fact(f"images_{split}", f"{split} images", sum(n)) for split, n in counts.items()]
    ratio = most / fewest if fewest else None
    measures.append(
        missing("imbalance", "largest training class over the smallest", "a class has no image")
        if ratio is None
        else fact("imbalance", "largest training class over the smallest", ratio)
    )
    measured = images.measured_split
    moved = moved_share(counts["train"], counts[measured])
    title = f"share of images that would have to change class to make {measured} like train"
    measures.append(fact("class_shift", title, moved, "%"))
    blocks: list[Block] = [Figures(measures, "Classes"), Table(["class", *counts], rows)]
    if len(names) <= MOST_CLASSES:
        blocks.append(
            Picture(
                "data_classes",
                class_picture(counts, names),
                "Share of each class in each split. Marks of a row that lie together: the splits "
                "have the class alike; rows far apart: the classes are of different size.",
                f"Share of {len(names)} classes by split; the largest training class has "
                f"{most:,} images, the smallest {fewest:,}.",
            )
        )
    if ratio is not None and ratio < IMBALANCE:
        return Part(blocks)
    says = f"The classes are uneven: {fewest:,} to {most:,} training images."
    return Part(blocks, says, "caution")


def moved_share(first: list[int], second: list[int]) -> float:
    """Return the total variation distance of the class shares of two splits, in [0, 1]."""
    totals = max(sum(first), 1), max(sum(second), 1)
    gaps = [abs(a / totals[0] - b / totals[1]) for a, b in zip(first, second, strict=True)]
    return sum(gaps) / 2


def copies(images: Images) -> Part:
    """Find images that are equal in every pixel, within and across splits."""
    measured = images.measured_split
    labels = {split: images.labels(split) for split in images.splits}
    groups = same_images({split: images.data.splits[split].images for split in images.splits})
    measures: list[Measure] = []
    for split in images.splits:
        inside = [[member for member in group if member[0] == split] for group in groups]
        extra = sum(len(members) - 1 for members in inside if members)
        measures.append(fact(f"copies_in_{split}", f"{split} images that repeat another", extra))
    leaked = sum(
        split == measured
        for group in groups
        for split, _ in group
        if any(other != measured for other, _ in group)
    )
    conflicts = [g for g in groups if len({int(labels[split][i]) for split, i in g}) > 1]
    across = [group for group in groups if len({split for split, _ in group}) > 1]
    n = images.count(measured)
    others = " or ".join(split for split in images.splits if split != measured)
    measures += [
        share(f"{measured}_copied", f"{measured} images that are in {others} too", leaked, n),
        fact("groups_across", "groups of equal images in more than one split", len(across)),
        fact("conflicts", "groups of equal images with different labels", len(conflicts)),
    ]
    blocks: list[Block] = [Figures(measures, "Copies, equal in every pixel (SHA-256)")]
    if groups:
        telling = sorted(groups, key=lambda g: (g not in conflicts, g not in across))
        rows = [copies_row(group, labels, images.class_names) for group in telling[:COPIES]]
        blocks.append(
            Table(["images", "labels"], rows, f"{len(rows)} of {len(groups):,} groups of copies")
        )
    says = f"Of {n:,} {measured} images {leaked or 'none'} {'are' if leaked > 1 else 'is'} "
    says += f"also in {others}, equal in every pixel."
    if conflicts:
        says += f" {len(conflicts):,} groups of equal images have different labels."
    mark: Mark = "caution" if across or conflicts else "holds"
    return Part(blocks, says, "fails" if leaked >= COPIED_FAILS * n else mark)


def copies_row(
    group: list[tuple[str, int]], labels: dict[str, Tensor], names: list[str]
) -> list[str]:
    shown = group[:6]
    rest = f" and {len(group) - len(shown):,} more" if len(group) > len(shown) else ""
    given = [names[int(labels[split][index])] for split, index in shown]
    return [", ".join(f"{split} {index}" for split, index in shown) + rest, ", ".join(given)]


def neighbourhood(subject: Subject, images: Images) -> Part:
    """Find the nearest image among train and validation for those of the measured split."""
    measured, known = images.measured_split, known_images(subject, images)
    asked, seed = known.asked, known.seed
    given, guessed = images.labels(measured, asked), known.guesses()
    distances, indices = (each[:, 0] for each in known.nearest)
    right = int((guessed == given).sum())
    least, median = float(distances.min()), float(distances.median())
    measures = [
        share("nearest_accuracy", "accuracy of the nearest image alone", right, len(asked), seed),
        *(
            Measure(f"nearest_{key}", f"{key} distance to the nearest image", value, "",
                    len(asked), None, seed, "of these images: no interval")
            for key, value in (("least", least), ("median", median))
        ),
    ]  # fmt: skip
    places = [(split, i) for split in known.splits for i in range(images.count(split))]
    closest = distances.argsort(stable=True)[:PAIRS]
    names, splits = images.class_names, images.data.splits
    shown = [splits[measured].images[i] for i in asked[closest].tolist()]
    titles, below = [], []
    for i in closest.tolist():
        split, index = places[indices[i]]
        shown.append(splits[split].images[index])
        titles.append(f"{measured} {asked[i]}\n{names[given[i]][:LONGEST]}")
        nearest_name = names[guessed[i]][:LONGEST]
        below.append(f"{split} {index}\n{nearest_name}\ndistance {distances[i]:.3f}")
    picture = Picture(
        "data_nearest",
        grid_picture(torch.stack(shown).float() / 255, titles + below, len(closest)),
        f"The {len(closest)} nearest pairs: above an image of {measured}, below the nearest of "
        f"{' or '.join(known.splits)}, each with its place in its split and its label. "
        f"The median distance of all is {median:.2f}: a pair far below it that shows the same "
        "thing twice may be one thing recorded twice.",
        f"{len(closest)} pairs of {measured} images and their nearest; least distance {least:.3f}.",
    )
    words = Words(
        "Distance is Euclidean over all pixels in [0, 1]. The accuracy of the nearest image alone "
        "says how hard the set is without any learning: what a network adds begins above it."
    )
    return Part([Figures(measures, "Nearest images"), picture, words])


class Judged(NamedTuple):
    """Labels of a split, and how far they are believed.

    Attributes:
        images: uint8 (N, C, H, W), of the same images as `quality`.
        numbers: Of those in their split, or in the official order, int64 (N,).
        how: Who judged them.
        seed: Where they were drawn from more.
    """

    split: str
    quality: LabelQuality
    images: Tensor
    numbers: Tensor
    how: str
    seed: int | None = None

    @property
    def disputed(self) -> int:
        return int((self.quality.given != self.quality.guessed).sum())

    def doubtful(self) -> list[int]:
        """Return the places of labels that are not believed, the least believed first."""
        number = int((self.quality.believed <= DOUBTED).sum())
        shown: list[int] = self.quality.order[: min(number, SHOWN)].tolist()
        return shown


def doubtful_labels(subject: Subject, images: Images) -> Part:
    """Rank the labels of each split by how little they are believed out of sample."""
    judged = []
    for split in [split for split in images.splits if split != "train"]:
        quality = label_quality(images.labels(split), images.logits(split).softmax(1))
        pixels, numbers = images.data.splits[split].images.cpu(), torch.arange(images.count(split))
        judged.append(Judged(split, quality, pixels, numbers, "by the model's own probabilities"))
    judged.sort(key=lambda one: one.split != images.measured_split)
    training, words = training_labels(subject, images)
    measured = judged[0]
    blocks: list[Block] = [
        Figures([m for one in (*judged, training) for m in measures_of(one)], "Labels in doubt"),
        lowest(images.class_names, [*judged, training]),
        words,
    ]
    flagged, n = measured.quality.flagged or 0, len(measured.numbers)
    says = f"The model disagrees with {measured.disputed or 'none'} of their labels"
    says += (
        f", of which a cautious test calls {flagged or 'none'} wrong." if measured.disputed else "."
    )
    return Part(blocks, says, "caution" if flagged >= FLAGGED * n else "holds")


def measures_of(judged: Judged) -> list[Measure]:
    name, n, seed = judged.split, len(judged.numbers), judged.seed
    title = f"{name} labels that are not the likeliest class"
    measures = [share(f"disputed_{name}", title, judged.disputed, n, seed)]
    title = f"{name} labels called wrong by confident learning"
    if judged.quality.flagged is None:
        why = "only the probability of the given label was kept"
        return [*measures, missing(f"flagged_{name}", title, why)]
    return [*measures, share(f"flagged_{name}", title, judged.quality.flagged, n, seed)]


def lowest(names: list[str], judged: list[Judged]) -> Picture:
    """Return the picture of the least believed labels; of the first split there are always some."""
    shown, titles = [], []
    for one in judged:
        of = one.quality
        places = of.order[:FEW].tolist() if one is judged[0] else one.doubtful()
        shown.append(one.images[places].float() / 255)
        titles += [
            f"{one.split} {one.numbers[i]}\n{names[of.given[i]][:LONGEST]}: "
            f"{percent(of.believed[i])} %\nguess {names[of.guessed[i]][:LONGEST]}"
            for i in places
        ]
    return Picture(
        "data_labels",
        grid_picture(torch.cat(shown), titles),
        "The labels that are believed least: "
        + "; ".join(f"those of {one.split} {one.how}" for one in judged)
        + f". Of {judged[0].split} {FEW}, more are among the errors below; of the others up to "
        f"{SHOWN}, where they are believed {100 * DOUBTED:.0f} % or less. Above each image: its "
        "number, counted from 0; the given label with its probability; the guess. A guess that "
        "looks right marks a wrong label; one that looks wrong, a hard image.",
        f"{len(titles)} images whose labels are believed least: "
        + ", ".join(title.replace("\n", ", ") for title in titles[:5]),
    )


def training_labels(subject: Subject, images: Images) -> tuple[Judged, Words]:
    """Judge the training labels by the runs of other folds, else by their nearest neighbours."""
    data = images.data
    if data.num_folds is None:
        why = "the run is not one of a k-fold set"
    else:
        everything, _ = data.dataset.load(data.root)  # in the official order
        found = from_folds(subject.run, everything.labels, data.num_folds, data.split_seed)
        if isinstance(found, LabelQuality):
            numbers = torch.arange(len(everything.labels))
            how = (
                f"by the {data.num_folds} runs of the k-fold set, each asked of the fold that it "
                "left out"
            )
            words = Words(
                "The training labels are those of train and validation together, numbered in "
                "their official order."
            )
            return Judged("train", found, everything.images, numbers, how), words
        why = found
    pixels, labels = data.splits["train"].images.cpu(), images.labels("train")
    asked, seed = drawn(subject, images, "train", "labels")
    voters = nearest(
        pixels[asked], pixels, NEIGHBOURS, own=asked, device=images.device, track=subject.track
    )
    shares = class_shares(voters, labels, len(images.class_names))
    quality = label_quality(labels[asked], shares, tie=voters.distances.mean(1))
    k = voters.indices.shape[1]
    of_all = "all" if seed is None else f"{len(asked):,} of the"
    words = Words(
        f"The training labels ({of_all} {len(labels):,}) are judged by the {k} nearest other "
        f"training images, weighted by 1 / distance, since {why} and the model has learnt its own "
        "training labels, errors included. Neighbours are a weaker judge than a network; the runs "
        "of a k-fold set (python -m project.train --data.num_folds 5 --folds 0..4) are a better. "
        "Train and validation images keep the order in which they lie in the set, without those "
        "of the other."
    )
    how = f"by the votes of the {k} nearest other training images"
    return Judged("train", quality, pixels[asked], asked, how, seed), words
