"""What mistakes in its context cost a language model: typos, and the worst exchange of one token.

A window of the test text is a context and a continuation. The context is given with mistakes, the
continuation never: its loss after both contexts is compared, window by window.

Shape letters: B windows.
"""

from torch import Tensor

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
from project.reporting.means import mean_measure
from project.reporting.subject import Subject
from project.reporting.text.pictures import typos_picture
from project.reporting.text.token_exchanges import exchange_blocks
from project.reporting.text.typed_contexts import (
    RATES,
    Cost,
    Costs,
    cost,
    drawn_windows,
    typed_costs,
)
from project.reporting.text.typos import KINDS

NAME = "robustness"
MARKED_RATE = 0.05  # that the mark is given by
MARKED = f"{100 * MARKED_RATE:.0f} % of the letters"
HOLDS_LOST = 0.10  # of what the context is worth, at most, by any kind of typos, for "holds"
FAILS_LOST = 0.50  # more by any kind: "fails"
EXAMPLES_A_WINDOW = 10  # a window is many tokens and is read 30 times: a tenth of the report's n
RULE = f"""\
Half a window is a context, which is given with mistakes, and the quarter that follows is a \
continuation without any: what the same continuation costs after both, in bits per byte, is \
compared window by window. Typos are letters beside the right key, left out, put in, swapped, or \
of the other case; a rate of 5 % is one in twenty letters. A context is worth what the \
continuation costs more after its last token alone. Holds: with typos in {MARKED}, no kind costs \
more than {100 * HOLDS_LOST:.0f} % of that worth. Fails: some kind costs over \
{100 * FAILS_LOST:.0f} % of it. With care: between, or where the interval of that worth holds 0. \
The cost of the typed text itself, and exchanges of a single token, are shown beside them and do \
not count."""


def section(subject: Subject) -> Section:
    text, seed = subject.text, subject.seed
    assert text is not None
    windows = drawn_windows(subject, text, max(2, subject.n // EXAMPLES_A_WINDOW))
    if windows is None:
        return not_run(NAME, "the test text does not fill two windows of at least 4 tokens")
    clean = cost(text, windows, windows.contexts)
    alone = cost(text, windows, [context[-1:] for context in windows.contexts])
    costs, num_cut = typed_costs(subject, text, windows)
    if not costs:
        return not_run(NAME, "the test text has no letters, in which to make typos")
    worst = max(KINDS, key=lambda kind: costs[kind, MARKED_RATE].per_byte)
    worth = difference("worth", "What the context is worth", alone, clean, seed)
    lost = share_lost(costs[worst, MARKED_RATE], clean, worth)
    exchanges, told = exchange_blocks(
        subject, text, windows.contexts, windows.continuations, windows.num_bytes
    )
    of_typos = [m for kind in KINDS for m in differences(costs, clean, kind, seed)]
    blocks: list[Block] = [
        Words(RULE),
        curves(costs, clean, alone),
        *tables(costs, clean, seed),
        Figures([worth, *references(clean, alone, seed, num_cut)], "Without typos"),
        Figures(of_typos, f"With typos in {MARKED}"),
        *exchanges,
    ]
    return Section(NAME, mark_of(lost), verdict(costs, clean, worst, lost) + told, blocks)


def difference(key: str, title: str, after: Cost, before: Cost, seed: int) -> Measure:
    """Return what continuations cost more, bits per byte."""
    bits, how = after.continuation - before.continuation, "normal, over pairs of windows"
    return mean_measure(key, title, "bits/byte", bits, after.num_bytes, seed=seed, how=how)


def differences(costs: Costs, clean: Cost, kind: str, seed: int) -> list[Measure]:
    """Return what typos of the rate that is marked by cost."""
    after, key = costs[kind, MARKED_RATE], f"{kind}_{100 * MARKED_RATE:.0f}"
    title = KINDS[kind].capitalize()
    more, own = f"{title}: the continuation costs more", f"{title}: the typed text itself"
    return [
        difference(key, more, after, clean, seed),
        mean_measure(f"{key}_own", own, "bits/byte", after.context, after.context_bytes, seed=seed),
    ]


def references(clean: Cost, alone: Cost, seed: int, num_cut: int) -> list[Measure]:
    """Return what the continuation costs without typos, and after a single token."""
    found = [
        mean_measure(key, title, "bits/byte", of.continuation, of.num_bytes, seed=seed)
        for key, title, of in (
            ("clean", "The continuation after the clean context", clean),
            ("one_token", "The continuation after the last token of it alone", alone),
        )
    ]
    title = "Contexts that typos made too long, cut at their beginning"
    return [*found, fact("contexts_cut", title, num_cut, how="counted, over all kinds and rates")]


def share_lost(after: Cost, clean: Cost, worth: Measure) -> float | None:
    """Return which share of a context's worth typos cost; None where it may be worth nothing."""
    if not worth.value or worth.interval_95 is None or worth.interval_95[0] <= 0:
        return None
    return (after.per_byte - clean.per_byte) / worth.value


def mark_of(lost: float | None) -> Mark:
    """Return the mark by `RULE`."""
    if lost is None:
        return "caution"
    return "holds" if lost <= HOLDS_LOST else "fails" if lost > FAILS_LOST else "caution"


def verdict(costs: Costs, clean: Cost, worst: str, lost: float | None) -> str:
    told = (
        f"With typos in {MARKED} before it (the worst kind: {KINDS[worst]}), text costs "
        f"{costs[worst, MARKED_RATE].per_byte:.2f} bits per byte instead of {clean.per_byte:.2f}: "
    )
    if lost is None:
        return f"{told}what was before it was of no certain use to the model."
    return f"{told}the model loses {max(100 * lost, 0):.0f} % of what it gains from its context."


def tables(costs: Costs, clean: Cost, seed: int) -> list[Table]:
    """Return what typos of every kind and rate cost, with 95 % intervals."""
    head = ["Typos", *(f"{100 * rate:.0f} %" for rate in RATES)]
    rows, own = [], []
    for kind, title in KINDS.items():
        after = [costs[kind, rate] for rate in RATES]
        more = [cell(a.continuation - clean.continuation, a.num_bytes, "+") for a in after]
        rows.append([title.capitalize(), *more])
        own.append([title.capitalize(), *(cell(a.context, a.context_bytes) for a in after)])
    none = ["None", cell(clean.context, clean.context_bytes), *([""] * (len(RATES) - 1))]
    by = (
        "bits per byte, by share of letters; with 95 % intervals, "
        f"{len(clean.context):,} windows, seed {seed}"
    )
    return [
        Table(head, rows, f"What the continuation costs more, {by}"),
        Table(head, [none, *own], f"What the typed text itself costs, {by}"),
    ]


def cell(bits: Tensor, num_bytes: Tensor, sign: str = "") -> str:
    """Return bits per byte and half of its interval, of at least two windows (B,)."""
    found = mean_measure("", "", "", bits, num_bytes)
    assert found.value is not None
    assert found.interval_95 is not None
    return f"{found.value:{sign}.3f} ± {found.interval_95[1] - found.value:.3f}"


def curves(costs: Costs, clean: Cost, alone: Cost) -> Picture:
    """Draw what the continuation costs by rate, a line a kind."""
    bits = {
        title: [clean.per_byte, *(costs[kind, rate].per_byte for rate in RATES)]
        for kind, title in KINDS.items()
    }
    at_most = ", ".join(f"{title} {values[-1]:.2f}" for title, values in bits.items())
    return Picture(
        "robustness_typos",
        typos_picture([0.0, *RATES], bits, alone.per_byte),
        "What the same continuation costs after contexts with more and more typos, a line a kind. "
        "Flat is robust; at the dashed line, the context is of no more use than its last token "
        "alone.",
        f"Bits per byte without typos {clean.per_byte:.2f}, after its last token alone "
        f"{alone.per_byte:.2f}, with typos in 20 % of the letters: {at_most}",
    )
