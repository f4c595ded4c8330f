"""Are the images and their labels sound? Counts, copies, near copies, and labels in doubt.

Shape letters: N images of a split, M of train and validation together, K classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from project.data.images import ImageData
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
    missing,
    share,
)
from project.reporting.images import data_pictures as pictures
from project.reporting.images.label_quality import LabelQuality, from_folds, label_quality
from project.reporting.images.neighbours import class_shares, nearest, same_images
from project.reporting.subject import Images, Subject

COPIED_FAILS = 0.01  # of the test images, with a copy among those that were trained or chosen on
IMBALANCE = 10.0  # largest class over smallest
FLAGGED = 0.01  # of the measured labels, called wrong by confident learning
QUERIES_PER_N = 10  # images whose neighbours are looked for, for each of `n`
NEIGHBOURS = 10  # that vote on a training label
PAIRS, SHOWN, ROWS = 5, 20, 20  # in the pictures of pairs and labels, in the table of copies
MOST_CLASSES = 62  # in the picture of classes
COUNTED = {  # by the numbers of images
    split: f"the {split} images, which are cut from the training images and keep their order,"
    for split in ("train", "val")
}

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


@dataclass
class Part:
    """One question of the section.

    Attributes:
        blocks: That answer it.
        says: A sentence for the verdict; nothing where it needs none.
        mark: What it alone would give the section.
    """

    blocks: list[Block]
    says: str = ""
    mark: Mark = "holds"


def section(subject: Subject) -> Section:
    assert subject.images is not None
    images = subject.images
    parts = [
        classes(images),
        copies(images),
        neighbourhood(subject, images),
        doubtful_labels(subject, images),
    ]
    marks = [part.mark for part in parts]
    mark: Mark = "fails" if "fails" in marks else "caution" if "caution" in marks else "holds"
    verdict = " ".join(part.says for part in parts if part.says)
    blocks = [block for part in parts for block in part.blocks]
    return Section("data", "Data", mark, verdict, [*blocks, RULE])


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
                pictures.class_picture(counts, names),
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
        rows = [copies_row(group, labels, images.class_names) for group in telling[:ROWS]]
        blocks.append(
            Table(["images", "labels"], rows, f"{len(rows)} of {len(groups):,} groups of copies")
        )
    says = f"Of {n:,} {measured} images {leaked or 'none'} {'are' if leaked > 1 else 'is'} "
    says += f"also in {others}, pixel for pixel."
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
    measured = images.measured_split
    known = [split for split in images.splits if split != measured]
    searched = torch.cat([images.data.splits[split].images.cpu() for split in known])  # (M, ...)
    labels = torch.cat([images.labels(split) for split in known])
    asked, seed = chosen(subject, images, measured, "neighbours")
    pixels = images.data.splits[measured].images.cpu()[asked]
    found = nearest(pixels, searched, device=images.device, track=subject.track)
    distances, indices = found.distances[:, 0], found.indices[:, 0]
    right = int((labels[indices] == images.labels(measured, asked)).sum())
    least, median = float(distances.min()), float(distances.median())
    measures = [
        share("nearest_accuracy", "accuracy of the nearest image alone", right, len(asked), seed),
        fact("nearest_least", "least distance to the nearest image", least),
        fact("nearest_median", "median distance to the nearest image", median),
    ]
    places = [(split, index) for split in known for index in range(images.count(split))]
    pairs, texts = [], []
    for i in distances.argsort(stable=True)[:PAIRS].tolist():
        split, index = places[indices[i]]
        label = images.class_names[int(images.labels(measured)[asked[i]])]
        other = images.class_names[int(labels[indices[i]])]
        pairs.append((pixels[i], searched[indices[i]]))
        texts.append(
            (f"{measured} {asked[i]}\n{label}", f"{split} {index}\n{other}", f"{distances[i]:.3f}")
        )
    picture = Picture(
        "data_nearest",
        pictures.pairs_picture(pairs, texts),
        f"The {len(pairs)} nearest pairs: above an image of {measured}, below the image of "
        f"{' or '.join(known)} that is nearest, each with its place in its split and its label; "
        f"at the foot their distance. The median of all is {median:.2f}: a pair far below it that "
        "shows the same thing twice may be one thing recorded twice.",
        f"{len(pairs)} pairs of {measured} images and their nearest; least distance {least:.3f}.",
    )
    accuracy = measures[0].number()
    words = Words(
        "Distance is Euclidean over all pixels in [0, 1]. The accuracy of the nearest image alone "
        "says how hard the set is without any learning: what a network adds begins above it."
    )
    says = f"Taking the label of the nearest known image is right for {accuracy}."
    return Part([Figures(measures, "Nearest images"), picture, words], says)


def chosen(subject: Subject, images: Images, split: str, name: str) -> tuple[Tensor, int | None]:
    """Return the indices of the images to be compared, and the seed where not all of them are."""
    most = QUERIES_PER_N * subject.n
    if images.count(split) <= most:
        return torch.arange(images.count(split)), None
    return images.sample(split, most, subject.generator(f"data {name}")), subject.seed


def doubtful_labels(subject: Subject, images: Images) -> Part:
    """Rank the labels of each split by how little they are believed out of sample."""
    measures, blocks = training_labels(subject, images)
    for split in [split for split in images.splits if split != "train"]:
        quality = label_quality(images.labels(split), images.logits(split).softmax(1))
        measures += measures_of(split, quality)
        pixels, numbers = images.data.splits[split].images.cpu(), torch.arange(images.count(split))
        how, counted = "by the model's own probabilities", COUNTED.get(split, f"the {split} images")
        blocks.append(lowest(images.class_names, split, quality, pixels, numbers, how, counted))
        if split == images.measured_split:
            flagged, disputed = quality.flagged or 0, int((quality.given != quality.guessed).sum())
            mark: Mark = "caution" if flagged >= FLAGGED * len(numbers) else "holds"
            says = (
                f"The model disputes {disputed:,} {split} labels, of which confident learning "
                f"calls {flagged or 'none'} wrong: look at the least believed."
            )
    return Part([Figures(measures, "Labels in doubt"), *blocks], says, mark)


def measures_of(name: str, quality: LabelQuality, seed: int | None = None) -> list[Measure]:
    n = len(quality.given)
    other = int((quality.given != quality.guessed).sum())
    title = f"{name} labels that are not the likeliest class"
    measures = [share(f"disputed_{name}", title, other, n, seed)]
    title = f"{name} labels called wrong by confident learning"
    if quality.flagged is None:
        why = "only the probability of the given label was kept"
        return [*measures, missing(f"flagged_{name}", title, why)]
    return [*measures, share(f"flagged_{name}", title, quality.flagged, n, seed)]


def lowest(
    names: list[str],
    split: str,
    quality: LabelQuality,
    images: Tensor,
    numbers: Tensor,
    how: str,
    counted: str,
) -> Picture:
    """Return the picture of the least believed labels of a split.

    Args:
        names: Of the classes.
        images, numbers: What `quality` is of: uint8 (N, C, H, W), and their numbers int64 (N,).
        how: They were judged.
        counted: What the numbers count.
    """
    places = quality.order[:SHOWN]
    texts = [
        f"no. {numbers[i]}\n{names[quality.given[i]]}: {100 * quality.believed[i]:.2g} %\n"
        f"guess {names[quality.guessed[i]]}"
        for i in places
    ]
    differ = int((quality.given[places] != quality.guessed[places]).sum())
    return Picture(
        f"data_labels_{split}",
        pictures.labels_picture(images[torch.from_numpy(places)], texts),
        f"The {len(places)} labels of {split} that are believed least, {how}. Above each its "
        "number, the given label with its probability, and the guess. A guess "
        "that looks right marks a wrong label; one that looks wrong, a hard image. The numbers "
        f"count {counted} from 0.",
        f"{len(places)} images of {split} whose labels are believed least; the guess differs from "
        f"the label in {differ}.",
    )


def training_labels(subject: Subject, images: Images) -> tuple[list[Measure], list[Block]]:
    """Rank the training labels by the runs of other folds, else by their nearest neighbours."""
    data: ImageData = images.data
    names, why = images.class_names, "the run is not one of a k-fold set"
    if data.num_folds is not None:
        everything, _ = data.dataset.load(data.root)  # in the official order
        folds = from_folds(subject.run, everything.labels, data.num_folds, data.split_seed)
        if folds.quality is not None:
            numbers = torch.arange(len(everything.labels))
            how = f"by the {folds.why} of the k-fold set, each asked of the fold it left out"
            counted = "the images of train and val together, in their official order,"
            picture = lowest(
                names, "train", folds.quality, everything.images, numbers, how, counted
            )
            return measures_of("train", folds.quality), [picture]
        why = folds.why
    train = data.splits["train"]
    pixels = train.images.cpu()
    asked, seed = chosen(subject, images, "train", "labels")
    found = nearest(
        pixels[asked], pixels, NEIGHBOURS, own=asked, device=images.device, track=subject.track
    )
    labels = images.labels("train")
    shares = class_shares(found, labels, len(names))
    quality = label_quality(labels[asked], shares, tie=found.distances.mean(1))
    k = found.indices.shape[1]
    of_all = "all" if seed is None else f"{len(asked):,} of the"
    words = Words(
        f"The training labels ({of_all} {len(labels):,}) are judged by the {k} nearest other "
        f"training images, weighted by 1 / distance, since {why} and the model has learnt its own "
        "training labels, errors included. Neighbours are a weaker judge than a network; the runs "
        "of a k-fold set (python -m project.train --data.num_folds 5 --folds 0..4) are a better."
    )
    how = f"by the votes of the {k} nearest other training images"
    picture = lowest(names, "train", quality, pixels[asked], asked, how, COUNTED["train"])
    return measures_of("train", quality, seed), [words, picture]
