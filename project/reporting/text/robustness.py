"""What mistakes in its context cost a language model: typos, and the worst exchange of one token.

A window of the test text is a context and a continuation. The context is given with mistakes, the
continuation never: its loss after both contexts is compared, window by window.

Shape letters: B windows, C tokens of a context, R of a continuation, T of both, k candidates.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from project.data.loader import IGNORED
from project.data.text import TokenBatch
from project.data.tokenization import Tokens
from project.reporting.findings import (
    Block,
    Figures,
    Mark,
    Measure,
    Passage,
    Picture,
    Section,
    Table,
    Words,
    fact,
    missing,
    not_run,
)
from project.reporting.subject import Subject, Text
from project.reporting.text.strange_texts import (
    readable,
    separate_windows,
    whole_rows,
    windows_of,
)
from project.reporting.text.token_flips import likeliest_flips, random_flips
from project.reporting.text.typos import KINDS, typed
from project.training.intervals import mean_interval

NAME, TITLE = "robustness", "Robustness"
RATES = (0.01, 0.02, 0.05, 0.10, 0.20)  # of the letters
MARKED_RATE = 0.05  # that the mark is given by
HOLDS_LOST = 0.10  # of what the context is worth, at most, by any kind of typos, for "holds"
FAILS_LOST = 0.50  # more by any kind: "fails"
EXAMPLES_A_WINDOW = 10  # a window is many tokens and is read 30 times: a tenth of the report's n
EXAMPLES_A_FLIP = 20
CANDIDATES = 10  # k exchanges that are tried for each window
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
        num_bytes: Of each continuation, (B,).
        longest: Tokens that a context may have for the continuation to fit behind it.
    """

    texts: list[str]
    contexts: list[Tokens]
    continuations: Tensor
    num_bytes: list[int]
    longest: int


@dataclass
class Cost:
    """Losses of continuations and of the contexts before them, bits, of each window (B,)."""

    continuation: Tensor
    context: Tensor
    context_bytes: Tensor

    def per_byte(self, windows: Windows) -> float:
        return self.continuation.sum().item() / sum(windows.num_bytes)

    def context_per_byte(self) -> float:
        return (self.context.sum() / self.context_bytes.sum().clamp(min=1)).item()


def section(subject: Subject) -> Section:
    text = subject.text
    assert text is not None
    windows = drawn_windows(text, subject, max(2, subject.n // EXAMPLES_A_WINDOW))
    if windows is None:
        return not_run(NAME, TITLE, "the test text does not fill two windows of at least 4 tokens")
    clean = cost(text, windows, windows.contexts)
    alone = cost(text, windows, [context[-1:] for context in windows.contexts])
    costs, num_cut = typed_costs(subject, text, windows)
    if not costs:
        return not_run(NAME, TITLE, "the test text has no letters, in which to make typos")
    worst = max(KINDS, key=lambda kind: costs[kind, MARKED_RATE].per_byte(windows))
    worth = worth_of(windows, clean, alone, subject.seed)
    lost = share_lost(costs[worst, MARKED_RATE], windows, clean, worth)
    flips, told_flips = flip_blocks(subject, text, windows)
    mark: Mark = "caution"
    if lost is not None and lost <= HOLDS_LOST:
        mark = "holds"
    elif lost is not None and lost > FAILS_LOST:
        mark = "fails"
    blocks: list[Block] = [
        Words(RULE),
        curves(windows, costs, clean, alone),
        table(windows, costs, clean),
        own_table(costs, clean),
        Figures(
            [worth, *references(windows, clean, alone, subject.seed, num_cut)], "Without typos"
        ),
        *(
            Figures(differences(windows, costs, clean, kind, subject.seed), title.capitalize())
            for kind, title in KINDS.items()
        ),
        *flips,
    ]
    told = verdict(windows, costs, clean, worst, lost) + told_flips
    return Section(NAME, TITLE, mark, told, blocks)


def drawn_windows(text: Text, subject: Subject, n: int) -> Windows | None:
    """Return windows of the test text that do not overlap; None where there are not two."""
    context, continuation = text.context_length // 2, text.context_length // 4
    if continuation < 1:
        return None
    width = context + continuation
    batch = separate_windows(text, n, subject.generator(NAME), width - 1)
    rows = whole_rows(batch)  # (B, C + R)
    if len(rows) < 2 or rows.shape[1] < width:
        return None
    texts = [readable(text.tokenizer.decode(row)) for row in rows[:, :context].tolist()]
    told = [i for i, piece in enumerate(texts) if piece]
    rows, texts = rows[told], [texts[i] for i in told]
    num_bytes = text.byte_counts[rows[:, context:]].sum(dim=1).clamp(min=1).tolist()
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


def difference(key: str, title: str, windows: Windows, bits: Tensor, seed: int) -> Measure:
    """Return the mean of paired differences, bits (B,), per byte."""
    interval = mean_interval(bits.tolist(), windows.num_bytes[: len(bits)])
    value = bits.sum().item() / sum(windows.num_bytes[: len(bits)])
    return Measure(
        key, title, value, "bits/byte", len(bits), interval, seed, "normal, over pairs of windows"
    )


def differences(windows: Windows, costs: Costs, clean: Cost, kind: str, seed: int) -> list[Measure]:
    found = []
    for rate in RATES:
        after = costs[kind, rate]
        key, title = f"{kind}_{100 * rate:.0f}", f"{KINDS[kind].capitalize()}, {100 * rate:.0f} %"
        bits = after.continuation - clean.continuation
        found.append(difference(key, f"{title}: the continuation costs more", windows, bits, seed))
        sums, counts = after.context.tolist(), after.context_bytes.clamp(min=1).tolist()
        found.append(
            Measure(
                f"{key}_own",
                f"{title}: the typed text itself",
                after.context_per_byte(),
                "bits/byte",
                len(sums),
                mean_interval(sums, counts),
                seed,
                "normal, over windows",
            )
        )
    return found


def references(
    windows: Windows, clean: Cost, alone: Cost, seed: int, num_cut: int
) -> list[Measure]:
    """Return what the continuation costs without typos, and after a single token."""
    found = []
    for key, title, reference in (
        ("clean", "The continuation after the clean context", clean),
        ("one_token", "The continuation after the last token of it alone", alone),
    ):
        sums = reference.continuation.tolist()
        found.append(
            Measure(
                key,
                title,
                reference.per_byte(windows),
                "bits/byte",
                len(sums),
                mean_interval(sums, windows.num_bytes),
                seed,
                "normal, over windows",
            )
        )
    title = "Contexts that typos made too long, cut at their beginning"
    return [*found, fact("contexts_cut", title, num_cut, how="counted, over all kinds and rates")]


def flip_blocks(subject: Subject, text: Text, windows: Windows) -> tuple[list[Block], str]:
    """Return what exchanges of one token of the context cost, and the same in words."""
    n = min(len(windows.texts), max(2, subject.n // EXAMPLES_A_FLIP))
    size = min(map(len, windows.contexts[:n]))  # of BPE, contexts have different lengths
    contexts = np.stack([context[-size:] for context in windows.contexts[:n]]).astype(np.int64)
    rows = torch.cat([torch.from_numpy(contexts), windows.continuations[:n]], dim=1)
    inputs, targets = rows[:, :-1], rows[:, 1:].clone()
    targets[:, : size - 1] = IGNORED
    tokens = torch.from_numpy(np.unique(text.tokens(text.measured_split)).astype(np.int64))
    k = min(CANDIDATES, len(tokens) - 1)
    heading = "One token of the context exchanged for another of the text"
    try:
        by_gradient = likeliest_flips(
            text.network, inputs.to(text.device), targets.to(text.device), size, tokens, k
        ).cpu()
    except (ValueError, RuntimeError) as error:  # whatever a network of one's own does not allow
        why = " ".join(str(error).split())
        return [Figures([missing("flip_gradient", "Found by gradient", why)], heading)], ""
    at_random = random_flips(inputs, size, tokens, k, subject.generator(NAME, 100))
    clean = flip_bits(text, inputs[None], targets)  # (1, B)
    harm, random_harm = (flip_bits(text, f, targets) - clean for f in (by_gradient, at_random))
    measures = [
        difference(key, f"{title}: the continuation costs more", windows, bits, subject.seed)
        for key, title, bits in (
            ("flip_random", "Drawn", random_harm.mean(dim=0)),
            ("flip_random_worst", f"The worst of {k} drawn", random_harm.max(dim=0).values),
            ("flip_gradient", f"The worst of {k} found by gradient", harm.max(dim=0).values),
        )
    ]
    drawn, _, found = (m.value or 0.0 for m in measures)
    price = clean.sum().item() / sum(windows.num_bytes[:n])
    told = (
        f" A single token of {size} exchanged on purpose costs {found / price:.0%} more on "
        f"average, at random {drawn / price:.0%}."
    )
    worst = int(harm.max(dim=0).values.argmax())
    flip = by_gradient[harm[:, worst].argmax(), worst]
    return [Figures(measures, heading), example(text, inputs[worst], flip, size)], percents(told)


def flip_bits(text: Text, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return what the continuations cost, bits (k, B), for inputs (k, B, T)."""
    batch = TokenBatch(inputs.flatten(0, 1), targets.repeat(len(inputs), 1), continues=False)
    return text.losses_of(batch).double().sum(dim=1).view(inputs.shape[:2]) / math.log(2)


def example(text: Text, inputs: Tensor, flip: Tensor, context: int) -> Passage:
    """Show the most harmful exchange: the context with it, and what was to be continued."""
    place = int((inputs != flip).nonzero()[0])
    parts = (flip[:place], inputs[place, None], flip[place, None], flip[place + 1 : context])
    before, old, new, after = (text.tokenizer.decode(part.tolist()) for part in parts)
    rest = text.tokenizer.decode(inputs[context:].tolist())
    title = "The most harmful exchange found, [before -> after], in the context | what follows"
    return Passage(f"{before}[{old} -> {new}]{after}|{rest}", title)


def worth_of(windows: Windows, clean: Cost, alone: Cost, seed: int) -> Measure:
    """Return what the continuation costs more after the last token of the context alone."""
    bits = alone.continuation - clean.continuation
    return difference("worth", "What the context is worth", windows, bits, seed)


def share_lost(after: Cost, windows: Windows, clean: Cost, worth: Measure) -> float | None:
    """Return which share of a context's worth typos cost; None where it may be worth nothing."""
    if not worth.value or worth.interval_95 is None or worth.interval_95[0] <= 0:
        return None
    return (after.per_byte(windows) - clean.per_byte(windows)) / worth.value


def verdict(windows: Windows, costs: Costs, clean: Cost, worst: str, lost: float | None) -> str:
    was = clean.per_byte(windows)
    after = costs[worst, MARKED_RATE]
    own = after.context_per_byte() / clean.context_per_byte() - 1
    worth = "was of no certain use to it" if lost is None else f"loses {lost:.0%} of its worth"
    return percents(
        f"With typos in {MARKED_RATE:.0%} of the letters of its context ({KINDS[worst]}, the worst "
        f"kind) the same text after it costs {after.per_byte(windows):.2f} bits per byte where it "
        f"cost {was:.2f}: the context {worth}; the typed text itself costs {own:.0%} more."
    )


def percents(text: str) -> str:
    return text.replace("%", " %")


def table(windows: Windows, costs: Costs, clean: Cost) -> Table:
    was = clean.per_byte(windows)
    rows = [
        [title.capitalize(), *(f"{costs[kind, r].per_byte(windows) - was:+.3f}" for r in RATES)]
        for kind, title in KINDS.items()
    ]
    head = ["Typos", *(f"{100 * rate:.0f} %" for rate in RATES)]
    return Table(head, rows, "What the continuation costs more, bits per byte, by share of letters")


def own_table(costs: Costs, clean: Cost) -> Table:
    rows = [
        [KINDS[kind].capitalize(), f"{clean.context_per_byte():.2f}"]
        + [f"{costs[kind, rate].context_per_byte():.2f}" for rate in RATES]
        for kind in KINDS
    ]
    head = ["Typos", "none", *(f"{100 * rate:.0f} %" for rate in RATES)]
    return Table(head, rows, "What the typed text itself costs, bits per byte, by share of letters")


def curves(windows: Windows, costs: Costs, clean: Cost, alone: Cost) -> Picture:
    """Draw what the continuation costs by rate, a line a kind."""
    from matplotlib.figure import Figure  # half a second: not needed to train

    from project.training.pictures import drawn, png

    figure = Figure(figsize=(4.5, 3.6), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    was, without = clean.per_byte(windows), alone.per_byte(windows)
    percent = [0.0, *(100 * rate for rate in RATES)]
    colours = ("#1f5fa8", "#c8641e", "#2a8a4a", "#8a3fa0", "#707070")
    for (kind, title), colour, mark in zip(KINDS.items(), colours, "osv^D", strict=True):
        bits = [was, *(costs[kind, rate].per_byte(windows) for rate in RATES)]
        axes.plot(percent, bits, marker=mark, markersize=4, color=colour, label=title)
    axes.axhline(without, color="black", linestyle="--", linewidth=1, label="no context")
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
        f"Bits per byte without typos {was:.2f}, without context {without:.2f}, with typos in 20 % "
        "of the letters: " + ", ".join(f"{KINDS[k]} {at_most[k]:.2f}" for k in KINDS),
    )
