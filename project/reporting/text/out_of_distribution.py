"""Does a language model notice that a text is not of the kind it was trained on?

The score of a window is its mean loss, bits per byte, read from nothing: higher for what is
strange. Not per token: strange text falls into other, shorter tokens, which cost less each.

Shape letters: B windows, T tokens of a window, V vocabulary.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from project.data.text import TokenBatch
from project.reporting.findings import (
    Figures,
    Mark,
    Measure,
    Picture,
    Section,
    Words,
    capital,
    missing,
    not_run,
    with_unit,
)
from project.reporting.means import mean_measure
from project.reporting.separation import FAILS_AUROC, HOLDS_AUROC, Scores, separation
from project.reporting.subject import Subject
from project.reporting.text import strange_texts
from project.reporting.text.opened import Text, separate_starts
from project.reporting.text.pictures import spread_picture

NAME = "out_of_distribution"
EXAMPLES_A_WINDOW = 8  # a window is many tokens: an eighth of the report's n
NUM_KINDS = 6
RULE = f"""\
Windows of strange text are compared with windows of the test text, in pairs, by the mean loss of \
a window, bits per byte. Told apart in pairs (AUROC): how often the strange window of a pair has \
the higher loss; 50 % is chance. Taken for familiar (FPR at 95 % TPR): the share of strange \
windows whose loss is no higher than that which 95 % of the test windows stay below; the test \
windows are the positives there. Holds: every kind is told apart in {100 * HOLDS_AUROC:.0f} % of \
pairs or more. Fails: some kind in less than {100 * FAILS_AUROC:.0f} %. With care: between."""


@dataclass
class Kind:
    """One kind of windows, and what the network says of them.

    Attributes:
        key, title: Of the kind.
        batch: Windows, of which some tokens may not be counted.
        are_pairs: Whether window i was made from test window i.
        bits, num_bytes: Loss of each window and the bytes that it stands for, (B,); see `read`.
        losses: Their ratio, bits per byte, float64 (B,).
        bits_per_byte: Over all windows together.
    """

    key: str
    title: str
    batch: TokenBatch
    are_pairs: bool = False

    def read(self, text: Text) -> "Kind":
        self.bits = text.losses_of(self.batch).double().sum(dim=1) / math.log(2)
        # Of unknown characters alone, a window stands for no byte.
        known = strange_texts.target_bytes(text, self.batch.targets)
        self.num_bytes = known.sum(dim=1).clamp(min=1)
        self.losses: Scores = (self.bits / self.num_bytes).numpy()
        return self

    @property
    def bits_per_byte(self) -> float:
        return (self.bits.sum() / self.num_bytes.sum()).item()


def section(subject: Subject) -> Section:
    text = subject.text
    assert text is not None
    n = max(2, subject.n // EXAMPLES_A_WINDOW)
    batch = text.windows(text.measured_split, n, subject.generator(NAME))
    if len(batch.inputs) < 2:
        return not_run(NAME, "the text to measure on does not fill two windows")
    test = Kind("test", f"{text.measured_split} text", batch).read(text)
    kinds, reasons = [], []
    for found in subject.track(
        kinds_beside(subject, text, batch), "reading strange texts", NUM_KINDS
    ):
        if isinstance(found, Kind):
            kinds.append(found.read(text))
        else:
            reasons.append(found)
    measures = {kind.key: measured(test, kind, subject.seed) for kind in kinds}
    apart = {kind.key: measures[kind.key][1].value or 0.0 for kind in kinds}
    worst = min(kinds, key=lambda kind: apart[kind.key])
    easiest = max(kinds, key=lambda kind: apart[kind.key])
    mark = mark_of(apart[worst.key])
    of_kinds = [measure for found in measures.values() for measure in found]
    figures = [bits_per_byte_of(test, subject.seed), *of_kinds, *reasons]
    return Section(
        NAME,
        mark,
        verdict(mark, worst, easiest, apart),
        [
            Words(RULE),
            distributions(test, kinds),
            Figures(figures, "How strange it finds them"),
        ],
    )


def kinds_beside(subject: Subject, text: Text, test: TokenBatch) -> Iterator[Kind | Measure]:
    """Yield every kind to compare with the test windows, or why it is missing."""
    draws = [subject.generator(NAME, number) for number in range(1, 5)]
    rows = strange_texts.whole_rows(test)  # (B, T + 1)
    length = test.inputs.shape[1]
    texts = [strange_texts.readable(text.tokenizer.decode(row)) for row in rows.tolist()]
    for key, title, change in (
        ("words", "words shuffled", lambda t: strange_texts.words_shuffled(t, draws[0])),
        ("characters", "characters shuffled", lambda t: strange_texts.shuffled(t, draws[1])),
        ("reversed", "the text backwards", lambda t: t[::-1]),
    ):
        changed = [text.tokenizer.encode(change(t)) for t in texts]
        kept = [row for row in changed if len(row) > 1]
        if kept:
            batch = strange_texts.windows_of(kept, length)
            yield Kind(key, title, batch, are_pairs=len(kept) == len(rows))
    known = text.byte_counts.nonzero().flatten()
    drawn = known[torch.randint(len(known), rows.shape, generator=draws[2])]
    yield Kind("random", "random tokens", strange_texts.windows_of(drawn.tolist(), length))
    for key, (title, document) in strange_texts.other_texts(text.data).items():
        try:
            tokens, _ = text.data.document_tokens(document, "utf-8")
        except ValueError as error:
            yield missing(key, capital(title), str(error))
            continue
        wide = min(length + 1, len(tokens))
        starts = separate_starts(len(tokens) - wide + 1, len(rows), wide, draws[3])
        windows = [tokens[start : start + wide] for start in starts]
        yield Kind(key, title, strange_texts.windows_of(windows, length))


def bits_per_byte_of(kind: Kind, seed: int) -> Measure:
    key, title = f"{kind.key}_bits_per_byte", f"{capital(kind.title)}: bits per byte"
    return mean_measure(key, title, "bits/byte", kind.bits, kind.num_bytes, seed=seed)


def measured(test: Kind, kind: Kind, seed: int) -> list[Measure]:
    """Return bits per byte, AUROC and FPR."""
    apart = separation(
        kind.key, capital(kind.title), test.losses, kind.losses, seed, are_pairs=kind.are_pairs
    )
    return [bits_per_byte_of(kind, seed), *apart]


def mark_of(least_auroc: float) -> Mark:
    if least_auroc >= HOLDS_AUROC:
        return "holds"
    return "fails" if least_auroc < FAILS_AUROC else "caution"


def verdict(mark: Mark, worst: Kind, easiest: Kind, apart: dict[str, float]) -> str:
    said = {
        "holds": "Its loss notices strange text",
        "caution": "Its loss notices most strange text, not all",
        "fails": "Its loss does not notice some strange text",
    }[mark]
    return (
        f"{said}: it is higher than on its own text in {with_unit(apart[easiest.key], '%')} of "
        f"pairs of windows for {easiest.title}, the easiest kind, and in "
        f"{with_unit(apart[worst.key], '%')} for {worst.title}, the hardest (50 % is chance)."
    )


def distributions(test: Kind, kinds: list[Kind]) -> Picture:
    """Draw how the loss of windows is spread over each kind, a row a kind."""
    shown = [test, *kinds]
    return Picture(
        "out_of_distribution",
        spread_picture({kind.title: kind.losses for kind in shown}),
        "Spread of the mean loss over windows of each kind; a stroke marks the median, heights are "
        "square roots, on a scale of each row's own. A model that notices strange text has those "
        "rows (orange) to the right of its own text (blue), without overlap.",
        "Bits per byte: " + ", ".join(f"{kind.title} {kind.bits_per_byte:.2f}" for kind in shown),
    )
