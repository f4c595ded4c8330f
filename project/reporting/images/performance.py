"""How often is a classifier right, where is it wrong, and when can it be left alone?

Shape letters: N images of the measured split, K classes.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from project.comparison.significance import mcnemar
from project.intervals import wilson_interval
from project.reporting.bootstrap import DRAWS, interval_95
from project.reporting.findings import (
    Block,
    Figures,
    Mark,
    Measure,
    Picture,
    Section,
    Table,
    Words,
    digits,
    fact,
    missing,
    percent,
    share,
)
from project.reporting.images.class_pictures import confusion_picture
from project.reporting.images.classification import (
    class_averages,
    most_confused,
    resampled_averages,
    threshold_of,
    worse_than_the_rest,
)
from project.reporting.images.grids import LONGEST, grid_picture
from project.reporting.images.neighbours import known_images
from project.reporting.images.opened import Images
from project.reporting.means import mean_measure
from project.reporting.recorded import recorded
from project.reporting.subject import Subject

ENOUGH = 0.90  # accuracy below which a model is to be used with care
FAR_BELOW = 0.05  # recall below that of the other classes, which is more than a nuance
SURE = 0.05  # p-value below which a difference is no chance
ALONE = 0.99  # accuracy that is asked of what is decided without a person
FEWEST_ALONE = 100  # validation images that must show it
COVERAGES = (1.0, 0.99, 0.95, 0.9, 0.8, 0.5)
MOST_ROWS = 30  # of a table of classes
MOST_CONFUSED = 8
MOST_ERRORS = 12
RULE = f"""\
The mark: "fails" where the interval of the accuracy reaches the share of the commonest class; \
"with care" where it reaches below {ENOUGH:.0%}, or the model is not shown to be better than the \
class of the nearest known image, pixel by pixel (the interval of the paired difference reaches \
0), or a class is {100 * FAR_BELOW:.0f} points or more below the others and the test says that \
this is no chance (Fisher's exact test against all other classes, p below {SURE} after Holm's \
correction for {{}} classes, one of which is always the weakest); else "holds".\
""".replace("%", " %")


class Outcome(NamedTuple):
    """What became of each image of a split, all (N,) on the CPU."""

    labels: Tensor
    predicted: Tensor
    confidence: Tensor  # float64
    losses: Tensor  # nats, float64
    right: Tensor  # bool


class ClassResult(NamedTuple):
    """How one class is recognised."""

    name: str
    right: int
    support: int
    named: int  # images of any class that were taken for it
    others: float  # recall of all other classes together
    p_value: float  # that it is no worse than the others, adjusted for the number of classes

    @property
    def recall(self) -> float:
        return self.right / max(1, self.support)

    @property
    def is_left_behind(self) -> bool:
        return self.others - self.recall >= FAR_BELOW and self.p_value < SURE


def section(subject: Subject) -> Section:
    images = subject.images
    assert images is not None
    split, names = images.measured_split, images.class_names
    of = outcome(images.logits(split), images.labels(split))
    num_classes = len(names)
    confusion = torch.bincount(of.labels * num_classes + of.predicted, minlength=num_classes**2)
    confusion = confusion.view(num_classes, num_classes)
    classes = by_recall(confusion, names)
    figures = overall(subject, images, split, of)
    alone = alone_figures(images, of)
    blocks: list[Block] = [
        Figures(figures, f"On all {len(of.labels):,} images of the {split} split"),
        Words(compared(subject, images, split, of)),
        Table(*class_table(classes), "By class, the weakest first"),
        *confusions(confusion, names),
        *errors(images, split, of),
        Table(*coverage_table(of), "If only the most confident are decided"),
        Figures(alone, "Left alone: the threshold is chosen on the validation split"),
        Words(RULE.format(num_classes)),
    ]
    by_key = {measure.key: measure for measure in [*figures, *alone]}
    mark, verdict = mark_of(by_key, classes), verdict_of(by_key, of, classes, split)
    return Section("performance", mark, verdict, blocks)


def outcome(logits: Tensor, labels: Tensor) -> Outcome:
    log_shares = logits.double().log_softmax(dim=1)
    confidence, predicted = log_shares.exp().max(dim=1)
    losses = -log_shares.gather(1, labels[:, None])[:, 0]
    return Outcome(labels, predicted, confidence, losses, predicted == labels)


def overall(subject: Subject, images: Images, split: str, of: Outcome) -> list[Measure]:
    """Return the figures of the whole split: accuracy first, then that of the commonest class."""
    n, num_classes = len(of.labels), len(images.class_names)
    commonest = int(torch.bincount(images.labels("train")).argmax())
    averages = class_averages(of.labels, of.predicted, torch.ones(1, n).double(), num_classes)
    drawn = resampled_averages(
        of.labels, of.predicted, num_classes, subject.generator("performance")
    )
    found = [
        share("accuracy", "Accuracy", int(of.right.sum()), n),
        share(
            "majority", f"Always {images.class_names[commonest]!r}, the commonest in training",
            int((of.labels == commonest).sum()), n,
        ),
        mean_measure("loss", "Loss (negative log-likelihood)", "nats", of.losses, how="normal"),
    ]  # fmt: skip
    for key, title, value, draws in (
        ("balanced_accuracy", "Balanced accuracy", averages.recall.item(), drawn.recall),
        ("macro_f1", "F1, mean over classes", averages.f1.item(), drawn.f1),
    ):
        interval, how = interval_95(draws), f"bootstrap over images, {DRAWS:,} draws"
        if value in (0.0, 1.0):
            interval, how = wilson_interval(round(value * n), n), "Wilson: no resample differs"
        found.append(Measure(key, title, value, "%", n, interval, subject.seed, how))
    if num_classes > 10:
        best = images.logits(split).topk(5, dim=1).indices == of.labels[:, None]  # (N, 5)
        for k in (2, 5):
            right = int(best[:, :k].any(dim=1).sum())
            found.append(share(f"top_{k}", f"Right among the {k} likeliest", right, n))
    return [*found, *against_neighbours(subject, images, of), on_training_images(subject, images)]


def against_neighbours(subject: Subject, images: Images, of: Outcome) -> list[Measure]:
    """Return how often the nearest known image has the class, and how much better the model is."""
    known = known_images(subject, images)
    right = known.guesses() == of.labels[known.asked]
    n, seed = len(right), known.seed
    better = mcnemar(of.right[known.asked].numpy(), right.numpy())
    title = f"Always the class of the nearest image of {' or '.join(known.splits)}"
    return [
        share("nearest", title, int(right.sum()), n, seed),
        Measure(
            "better_than_nearest", "The model more than that, paired", better.difference, "%", n,
            better.interval, seed, "Wald, adjusted, paired over images",
        ),
    ]  # fmt: skip


def on_training_images(subject: Subject, images: Images) -> Measure:
    chosen = images.sample("train", subject.n, subject.generator("performance train"))
    predicted = images.classify(images.pixels("train", chosen)).argmax(dim=1)
    right = int((predicted == images.labels("train", chosen)).sum())
    title = "Accuracy on training images, as they are"
    return share("train_accuracy", title, right, len(chosen), subject.seed)


def compared(subject: Subject, images: Images, split: str, of: Outcome) -> str:
    """Return how this compares with what the run recorded of the same checkpoint and images."""
    hashes = subject.record.get("data", {}).get("sha256", {})
    known = recorded(subject, split, hashes.get(split) == images.data.hashes[split])
    if isinstance(known, str):
        return known
    then, now = known["accuracy"]["right"], int(of.right.sum())
    loss = of.losses.mean().item() - known["loss"]["value"]
    same = "the same number" if then == now else f"{now - then:+,}"
    return (
        f"run.json recorded {then:,} right of {known['accuracy']['count']:,} for this checkpoint; "
        f"here, in float32, {now:,}: {same}. The loss differs by {loss:+.1e} nats."
    )


def by_recall(confusion: Tensor, names: list[str]) -> list[ClassResult]:
    """Return the classes of which there are images, the worst recognised first."""
    right, support = confusion.diagonal(), confusion.sum(dim=1)
    named, p_values = confusion.sum(dim=0), worse_than_the_rest(right, support)
    others = (right.sum() - right) / (support.sum() - support).clamp(min=1)
    found = [
        ClassResult(
            names[c], int(right[c]), int(support[c]), int(named[c]), others[c].item(), p_values[c]
        )
        for c in range(len(names))
        if support[c] > 0
    ]
    return sorted(found, key=lambda result: result.recall)


def class_table(classes: list[ClassResult]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows, at most `MOST_ROWS`."""
    head = ["class", "images", "found (recall), %", "right when named (precision), %", "F1, %",
            "no worse than the rest, p"]  # fmt: skip
    rows = [
        [c.name, f"{c.support:,}", of_count(c.right, c.support), of_count(c.right, c.named),
         f"{200 * c.right / (c.support + c.named):.2f}", digits(c.p_value)]
        for c in classes[:MOST_ROWS]
    ]  # fmt: skip
    return head, rows


def of_count(right: int, n: int) -> str:
    """Return a share in % with Wilson's interval."""
    if n == 0:
        return "none"
    low, high = wilson_interval(right, n)
    return f"{100 * right / n:.2f} ({100 * low:.1f} to {100 * high:.1f})"


def confusions(confusion: Tensor, names: list[str]) -> list[Block]:
    caption = (
        "Rows: the true class; columns: what was predicted. Counts on the diagonal are right; the "
        "deeper an orange cell, the larger the share of its true class that went there."
    )
    worst = most_confused(confusion, MOST_CONFUSED)
    support = confusion.sum(dim=1).tolist()
    rows = [
        [names[true], names[predicted], f"{count:,}", of_count(count, support[true])]
        for true, predicted, count in worst
    ]
    told = ", ".join(f"{row[0]} taken for {row[1]} ({row[2]})" for row in rows[:3])
    picture = confusion_picture(confusion, names)
    blocks: list[Block] = [
        Picture("confusion", picture, caption, f"Confusion matrix. Most frequent: {told or 'none'}")
    ]
    head = ["true", "predicted", "images", "of that class, %"]
    return [*blocks, Table(head, rows, "Most frequent confusions")] if rows else blocks


def errors(images: Images, split: str, of: Outcome) -> list[Block]:
    """Return the errors that were made with the most confidence."""
    wrong = (~of.right).nonzero().flatten()
    if len(wrong) == 0:
        return [Words("No image was predicted wrong.")]
    chosen = wrong[of.confidence[wrong].argsort(descending=True, stable=True)][:MOST_ERRORS]
    names = images.class_names
    rows = [
        [str(i), names[of.labels[i]], names[of.predicted[i]], f"{100 * of.confidence[i]:.2f}"]
        for i in chosen.tolist()
    ]
    titles = [
        f"#{i}, {sure} %\n{said[:LONGEST]}\nnot {true[:LONGEST]}" for i, true, said, sure in rows
    ]
    caption = (
        f"The {len(chosen)} errors of {len(wrong):,} with the highest confidence: number of the "
        f"image in the {split} split, confidence, what was predicted, and the label. Some of "
        "the labels may be what is wrong: see Data."
    )
    picture = grid_picture(images.pixels(split, chosen).cpu(), titles)
    alt = "; ".join(f"image {i}: {said}, not {true}, {sure} %" for i, true, said, sure in rows[:5])
    return [Picture("errors", picture, caption, f"Most confident errors: {alt}")]


def coverage_table(of: Outcome) -> tuple[list[str], list[list[str]]]:
    order = of.confidence.argsort(descending=True, stable=True)
    rows = []
    for coverage in COVERAGES:
        kept = order[: max(1, round(coverage * len(order)))]
        right = int(of.right[kept].sum())
        rows.append([
            f"{100 * coverage:.0f} %", f"{len(kept):,}", of_count(right, len(kept)),
            f"{len(kept) - right:,}", f"{100 * of.confidence[kept[-1]]:.2f} %",
        ])  # fmt: skip
    return ["most confident", "images", "right, %", "wrong", "least confidence"], rows


def alone_figures(images: Images, of: Outcome) -> list[Measure]:
    """Return what a threshold leaves to the model, `ALONE` of it right, and how right that is."""
    share_title = f"Decided alone, to be {100 * ALONE:.0f} % right"
    if images.measured_split == "val":
        why = "there is no test split to judge a threshold on that is chosen on validation"
        return [missing("decided_alone", share_title, why)]
    val = outcome(images.logits("val"), images.labels("val"))
    threshold = threshold_of(val.confidence, val.right, ALONE, FEWEST_ALONE)
    if threshold is None:
        why = f"no {FEWEST_ALONE} most confident validation images are {100 * ALONE:.0f} % right"
        return [missing("decided_alone", share_title, why)]
    kept = of.confidence >= threshold
    n = int(kept.sum())
    found = [
        fact("threshold", "Least confidence to decide", threshold, "%"),
        share("decided_alone", share_title, n, len(kept)),
    ]
    if n == 0:
        return found
    return [*found, share("right_alone", "Right, of those", int(of.right[kept].sum()), n)]


def mark_of(figures: dict[str, Measure], classes: list[ClassResult]) -> Mark:
    """Return the mark by `RULE`."""
    low, majority = least(figures["accuracy"]), figures["majority"].value
    assert majority is not None
    if low <= majority:
        return "fails"
    is_beaten = least(figures["better_than_nearest"]) <= 0
    is_weak = low < ENOUGH or is_beaten or any(c.is_left_behind for c in classes)
    return "caution" if is_weak else "holds"


def least(measure: Measure) -> float:
    """Return the lower end of an interval."""
    assert measure.interval_95 is not None
    return measure.interval_95[0]


def verdict_of(
    figures: dict[str, Measure], of: Outcome, classes: list[ClassResult], split: str
) -> str:
    accuracy, majority, nearest = (figures[k] for k in ("accuracy", "majority", "nearest"))
    if mark_of(figures, classes) == "fails":
        return (
            f"Not shown to be better than always naming the commonest class: right on "
            f"{accuracy.shown()} of the {split} images, against {majority.number()}."
        )
    is_better = least(figures["better_than_nearest"]) > 0
    doubt = "" if is_better else ": not shown to be better than comparing pixels"
    told = (
        f"Right on {accuracy.shown()} of the {split} images; always naming the commonest class "
        f"would be right on {majority.number()}, that of the nearest known image on "
        f"{nearest.number()}{doubt}. "
    )
    told += of_confident(figures, of, split)
    if left := [c for c in classes if c.is_left_behind]:
        worst = f"{left[0].name!r} ({digits(100 * left[0].recall)} %"
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        return (
            f"{told}Left behind: {worst} against {digits(100 * left[0].others)} % of the "
            f"others){more}."
        )
    if any(c.p_value < SURE for c in classes):
        return f"{told}No class is {100 * FAR_BELOW:.0f} points below the others."
    return f"{told}No class is worse than the others by more than chance explains."


def of_confident(figures: dict[str, Measure], of: Outcome, split: str) -> str:
    """Return what the confidence is good for: a sentence and a space, or nothing."""
    if (figures["accuracy"].value or 0.0) >= ALONE:
        kept = of.confidence.argsort(descending=True, stable=True)[: round(0.9 * len(of.labels))]
        right = percent(of.right[kept].double().mean().item())
        return f"Of the 90 % that it is surest of, {right} % are right. "
    if "right_alone" in figures:
        return (
            f"It is sure enough to decide {figures['decided_alone'].number()} of them alone, of "
            f"which {figures['right_alone'].number()} are right. "
        )
    if split == "val":  # no threshold was sought
        return ""
    return f"No confidence was found above which {100 * ALONE:.0f} % are right. "
