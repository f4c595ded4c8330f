"""What mistakes in its context cost a language model: typos, and the worst exchange of one token.

A window of the test text is a context and a continuation. The context is given with mistakes, the
continuation never: its loss after both contexts is compared, window by window.

Shape letters: B windows, C tokens of a context, R of a continuation, T of both.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from project.data.loader import IGNORED
from project.data.tokenization import Tokens
from project.intervals import mean_interval
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
    not_run,
)
from project.reporting.subject import Subject, Text
from project.reporting.text.losses import mean_measure
from project.reporting.text.strange_texts import readable, whole_rows, windows_of
from project.reporting.text.token_exchanges import exchange_blocks
from project.reporting.text.typos import KINDS, typed

NAME = "robustness"
RATES = (0.01, 0.02, 0.05, 0.10, 0.20)  # of the letters
MARKED_RATE = 0.05  # that the mark is given by
HOLDS_LOST = 0.10  # of what the context is worth, at most, by any kind of typos, for "holds"
FAILS_LOST = 0.50  # more by any kind: "fails"
EXAMPLES_A_WINDOW = 10  # a window is many tokens and is read 30 times: a tenth of the report's n
RULE = f"""\
Half a window is a context, which is given with mistakes, and the quarter that follows is a \
continuation without any: what the same continuation costs after both, in bits per byte, is \
compared window by window. Typos are letters beside the right key, left out, put in, swapped, or \
of the other case; a rate of 5 % is one in twenty letters. A context is worth what the \
continuation costs more after its last token alone. Holds: with typos in \
{100 * MARKED_RATE:.0f} % of the letters, no kind costs more than {100 * HOLDS_LOST:.0f} % of that \
worth. Fails: some kind costs over {100 * FAILS_LOST:.0f} % of it. With care: between, or where \
the interval of that worth holds 0. The cost of the typed text itself, and exchanges of a single \
token, are shown beside them and do not count."""


@dataclass
class Windows:
    """Test text in two parts.

    Attributes:
        texts: Of the contexts, (B,).
        contexts: Tokens of those, read anew: of BPE they may be others than in the long text.
        continuations: int64 (B, R).
        num_bytes: Of each continuation, int64 (B,).
        longest: Tokens that a context may have for the continuation to fit behind it.
    """

    texts: list[str]
    contexts: list[Tokens]
    continuations: Tensor
    num_bytes: Tensor
    longest: int


@dataclass
class Cost:
    """Losses of continuations and of the contexts before them, bits, of each window (B,)."""

    continuation: Tensor
    context: Tensor
    context_bytes: Tensor

    def per_byte(self, windows: Windows) -> float:
        return (self.continuation.sum() / windows.num_bytes.sum()).item()


def section(subject: Subject) -> Section:
    text = subject.text
    assert text is not None
    windows = drawn_windows(text, subject, max(2, subject.n // EXAMPLES_A_WINDOW))
    if windows is None:
        return not_run(NAME, "the test text does not fill two windows of at least 4 tokens")
    clean = cost(text, windows, windows.contexts)
    alone = cost(text, windows, [context[-1:] for context in windows.contexts])
    costs, num_cut = typed_costs(subject, text, windows)
    if not costs:
        return not_run(NAME, "the test text has no letters, in which to make typos")
    worst = max(KINDS, key=lambda kind: costs[kind, MARKED_RATE].per_byte(windows))
    worth = worth_of(windows, clean, alone, subject.seed)
    lost = share_lost(costs[worst, MARKED_RATE], windows, clean, worth)
    exchanges, told_exchanges = exchange_blocks(
        subject, text, windows.contexts, windows.continuations, windows.num_bytes
    )
    mark: Mark = "caution"
    if lost is not None and lost <= HOLDS_LOST:
        mark = "holds"
    elif lost is not None and lost > FAILS_LOST:
        mark = "fails"
    blocks: list[Block] = [
        Words(RULE),
        curves(windows, costs, clean, alone),
        *tables(windows, costs, clean, subject.seed),
        Figures(
            [worth, *references(windows, clean, alone, subject.seed, num_cut)], "Without typos"
        ),
        Figures(
            [
                measure
                for kind in KINDS
                for measure in differences(windows, costs, clean, kind, subject.seed)
            ],
            f"With typos in {100 * MARKED_RATE:.0f} % of the letters",
        ),
        *exchanges,
    ]
    told = verdict(windows, costs, clean, worst, lost) + told_exchanges
    return Section(NAME, mark, told, blocks)


def drawn_windows(text: Text, subject: Subject, n: int) -> Windows | None:
    """Return windows of the test text that do not overlap; None where there are not two."""
    context, continuation = text.context_length // 2, text.context_length // 4
    if continuation < 1:
        return None
    width = context + continuation
    batch = text.windows(text.measured_split, n, subject.generator(NAME), width - 1)
    rows = whole_rows(batch)  # (B, C + R)
    if rows.shape[1] < width:
        return None
    texts = [readable(text.tokenizer.decode(row)) for row in rows[:, :context].tolist()]
    told = [i for i, piece in enumerate(texts) if piece]
    if len(told) < 2:
        return None
    rows, texts = rows[told], [texts[i] for i in told]
    num_bytes = text.byte_counts[rows[:, context:]].sum(dim=1).clamp(min=1)
    longest = text.context_length + 1 - continuation
    contexts = [text.tokenizer.encode(piece)[-longest:] for piece in texts]
    return Windows(texts, contexts, rows[:, context:], num_bytes, longest)


def cost(text: Text, windows: Windows, contexts: Sequence[Tokens]) -> Cost:
    """Return what continuations cost after contexts, each read from nothing."""
    lengths = torch.tensor([len(context) for context in contexts])[:, None]
    rows = [
        np.concatenate([context, after])
        for context, after in zip(contexts, windows.continuations.numpy(), strict=True)
    ]
    batch = windows_of(rows, max(map(len, rows)) - 1)
    bits = text.losses_of(batch).double() / math.log(2)  # (B, T)
    is_after = torch.arange(bits.shape[1]) >= lengths - 1  # target i is token i + 1 of its row
    known = text.byte_counts[batch.targets.clamp(min=0)] * (batch.targets != IGNORED)
    return Cost(
        (bits * is_after).sum(dim=1), (bits * ~is_after).sum(dim=1), (known * ~is_after).sum(dim=1)
    )


Costs = dict[tuple[str, float], Cost]


def typed_costs(subject: Subject, text: Text, windows: Windows) -> tuple[Costs, int]:
    """Return what continuations cost after typos, and how many contexts grew too long for all."""
    if not any(letter.isalpha() for piece in windows.texts for letter in piece):
        return {}, 0
    known: dict[str, bool] = {}

    def is_known(letter: str) -> bool:
        return known.setdefault(letter, not text.tokenizer.unknown(letter))

    conditions = [(kind, rate) for kind in KINDS for rate in RATES]
    found, num_cut = {}, 0
    for kind, rate in subject.track(conditions, "making typos"):
        generator = subject.generator(NAME, list(KINDS).index(kind), round(1000 * rate))
        contexts = []
        for piece, context in zip(windows.texts, windows.contexts, strict=True):
            tokens = text.tokenizer.encode(typed(piece, kind, rate, generator, is_known))
            num_cut += len(tokens) > windows.longest
            contexts.append(tokens[-windows.longest :] if len(tokens) else context)
        found[kind, rate] = cost(text, windows, contexts)
    return found, num_cut


def difference(
    key: str, title: str, windows: Windows, after: Cost, before: Cost, seed: int
) -> Measure:
    """Return what continuations cost more, bits per byte."""
    bits, how = after.continuation - before.continuation, "normal, over pairs of windows"
    return mean_measure(key, title, bits, windows.num_bytes, "bits/byte", seed=seed, how=how)


def differences(windows: Windows, costs: Costs, clean: Cost, kind: str, seed: int) -> list[Measure]:
    """Return what typos of the rate that is marked by cost."""
    after, key = costs[kind, MARKED_RATE], f"{kind}_{100 * MARKED_RATE:.0f}"
    title = KINDS[kind].capitalize()
    more, own = f"{title}: the continuation costs more", f"{title}: the typed text itself"
    return [
        difference(key, more, windows, after, clean, seed),
        mean_measure(f"{key}_own", own, after.context, after.context_bytes, "bits/byte", seed=seed),
    ]


def references(
    windows: Windows, clean: Cost, alone: Cost, seed: int, num_cut: int
) -> list[Measure]:
    """Return what the continuation costs without typos, and after a single token."""
    found = [
        mean_measure(key, title, reference.continuation, windows.num_bytes, "bits/byte", seed=seed)
        for key, title, reference in (
            ("clean", "The continuation after the clean context", clean),
            ("one_token", "The continuation after the last token of it alone", alone),
        )
    ]
    title = "Contexts that typos made too long, cut at their beginning"
    return [*found, fact("contexts_cut", title, num_cut, how="counted, over all kinds and rates")]


def worth_of(windows: Windows, clean: Cost, alone: Cost, seed: int) -> Measure:
    """Return what the continuation costs more after the last token of the context alone."""
    return difference("worth", "What the context is worth", windows, alone, clean, seed)


def share_lost(after: Cost, windows: Windows, clean: Cost, worth: Measure) -> float | None:
    """Return which share of a context's worth typos cost; None where it may be worth nothing."""
    if not worth.value or worth.interval_95 is None or worth.interval_95[0] <= 0:
        return None
    return (after.per_byte(windows) - clean.per_byte(windows)) / worth.value


def verdict(windows: Windows, costs: Costs, clean: Cost, worst: str, lost: float | None) -> str:
    told = (
        f"With typos in {100 * MARKED_RATE:.0f} % of the letters before it (the worst kind: "
        f"{KINDS[worst]}), text costs {costs[worst, MARKED_RATE].per_byte(windows):.2f} bits per "
        f"byte instead of {clean.per_byte(windows):.2f}: "
    )
    if lost is None:
        return f"{told}what was before it was of no certain use to the model."
    return f"{told}the model loses {max(100 * lost, 0):.0f} % of what it gains from its context."


def tables(windows: Windows, costs: Costs, clean: Cost, seed: int) -> list[Table]:
    """Return what typos of every kind and rate cost, with 95 % intervals."""
    head = ["Typos", *(f"{100 * rate:.0f} %" for rate in RATES)]
    rows, own = [], []
    for kind, title in KINDS.items():
        after = [costs[kind, rate] for rate in RATES]
        more = [cell(a.continuation - clean.continuation, windows.num_bytes, "+") for a in after]
        rows.append([title.capitalize(), *more])
        own.append([title.capitalize(), *(cell(a.context, a.context_bytes) for a in after)])
    none = ["None", cell(clean.context, clean.context_bytes), *([""] * (len(RATES) - 1))]
    by = (
        f"bits per byte, by share of letters; with 95 % intervals, {len(windows.texts)} windows, "
        f"seed {seed}"
    )
    return [
        Table(head, rows, f"What the continuation costs more, {by}"),
        Table(head, [none, *own], f"What the typed text itself costs, {by}"),
    ]


def cell(sums: Tensor, counts: Tensor, sign: str = "") -> str:
    interval = mean_interval(sums.tolist(), counts.tolist())
    assert interval is not None  # of at least two windows
    low, high = interval
    return f"{(low + high) / 2:{sign}.3f} ± {(high - low) / 2:.3f}"


def curves(windows: Windows, costs: Costs, clean: Cost, alone: Cost) -> Picture:
    """Draw what the continuation costs by rate, a line a kind."""
    from matplotlib.figure import Figure  # half a second: not needed to train

    from project.tracking.pictures import drawn, png

    figure = Figure(figsize=(4.5, 3.6), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    was, without = clean.per_byte(windows), alone.per_byte(windows)
    percent = [0.0, *(100 * rate for rate in RATES)]
    colours = ("#1f5fa8", "#c8641e", "#2a8a4a", "#8a3fa0", "#707070")
    for (kind, title), colour, mark in zip(KINDS.items(), colours, "osv^D", strict=True):
        bits = [was, *(costs[kind, rate].per_byte(windows) for rate in RATES)]
        axes.plot(percent, bits, marker=mark, markersize=4, color=colour, label=title)
    axes.axhline(without, color="black", linestyle="--", linewidth=1, label="last token alone")
    axes.set_xlabel("letters of the context with a typo, %", fontsize=9)
    axes.set_ylabel("continuation, bits per byte", fontsize=9)
    axes.set_xticks([0, 2, 5, 10, 20])
    axes.tick_params(labelsize=9)
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    at_most = {kind: costs[kind, RATES[-1]].per_byte(windows) for kind in KINDS}
    return Picture(
        "robustness_typos",
        png(drawn(figure)),
        "What the same continuation costs after contexts with more and more typos, a line a kind. "
        "Flat is robust; at the dashed line, the context is of no more use than its last token "
        "alone.",
        f"Bits per byte without typos {was:.2f}, after its last token alone {without:.2f}, with "
        "typos in 20 % of the letters: " + ", ".join(f"{KINDS[k]} {at_most[k]:.2f}" for k in KINDS),
    )
