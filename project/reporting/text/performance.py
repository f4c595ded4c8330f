"""How well is a text predicted, compared with what, where not, and does the model copy?

Shape letters: N tokens of the measured split.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from project.reporting.findings import Block, Figures, Mark, Measure, Section, Words
from project.reporting.means import mean_measure
from project.reporting.recorded import recorded
from project.reporting.subject import Subject
from project.reporting.text.baselines import compressed_bits, ngram_losses
from project.reporting.text.copying import Copying, copying
from project.reporting.text.excerpts import as_bytes
from project.reporting.text.losses import (
    by_frequency,
    by_kind,
    by_place,
    by_window,
    passages,
    tokens_of,
)
from project.reporting.text.opened import Text
from project.reporting.text.repetition import SPAN, copied_from_training
from project.tasks.results import text_results

MOST_COUNTED = 4_000_000  # training tokens whose n-grams are counted
SMALL_VOCABULARY, ORDER_SMALL, ORDER_LARGE = 1024, 6, 3  # longest n-gram
MOST_COMPRESSED = 2_000_000  # bytes of training text that the compressor has seen
MOST_COMPRESSED_TEST = 1_000_000
GAP_WINDOWS = 200
RULE = """\
The mark: "fails" where the model is no better than the best n-gram (95 % interval of the paired \
difference); "with care" where a compressor that has read the training text needs fewer bits, or \
samples at temperature 1 copy more than real text does, or training passages are reproduced more \
often than others (their intervals do not meet); else "holds"."""
OF_BASELINES = f"""\
An n-gram predicts a token from the n - 1 before it, by counting in the training text \
(interpolated as by Witten & Bell 1991); n = 1 knows only which tokens are frequent. The \
compressor (LZMA) is told the training text and then asked for the bytes of the new text: it finds \
repetitions of any length, so that where it wins, the one repeats the other. At most the last \
{MOST_COUNTED:,} training tokens are counted and {MOST_COMPRESSED:,} bytes compressed. New text \
that lies in spans of {SPAN} bytes which the training text has letter for letter (the data section \
tells how much does) says little of what the model can do elsewhere."""


def section(subject: Subject) -> Section:
    text = subject.text
    assert text is not None
    split = text.measured_split
    losses = text.losses(split)
    windows, read = text.windows_read(split)
    results = results_of(text, split, losses, windows)
    figures = overall(text, results, split)
    rivals = baselines(text, split, losses, windows)
    apart = repeated_and_not(text, split, losses, windows)
    found = copying(subject, text, split)
    blocks: list[Block] = [
        Figures(figures, f"On all {len(losses):,} tokens of the {split} split"),
        Words(compared(subject, text, split, results)),
        Figures(rivals, "Without a neural network"),
        Figures(apart, f"Text that stands in the training text, in spans of {SPAN} bytes"),
        Words(OF_BASELINES),
        Figures(known_and_new(subject, text, split), "Training text against new text"),
        *by_place(losses, windows, read),
        by_frequency(text, split, losses, windows),
        by_kind(text, split, losses, windows),
        *passages(text, split, losses),
        *found.blocks,
        Words(RULE),
    ]
    measures = {m.key: m for m in figures + rivals + apart}
    mark, verdict = mark_of(measures, found), verdict_of(measures, found, split)
    return Section("performance", mark, verdict, blocks)


def token_sizes(text: Text, split: str) -> Tensor:
    """Return the bytes that each token after the first stands for, (N - 1,)."""
    return text.byte_counts[tokens_of(text, split)[1:]]


def results_of(text: Text, split: str, losses: Tensor, windows: Tensor) -> dict[str, Any]:
    """Return what a test would log, as in `run.json`."""
    sums, counts = by_window(losses, windows)
    return text_results(sums, counts, int(token_sizes(text, split).sum()))


def overall(text: Text, results: dict[str, Any], split: str) -> list[Measure]:
    n, count = results["loss"]["count"], results["loss"]["windows"]
    how = f"normal, over {count:,} windows" if count > 1 else "a single window"
    found = [
        Measure(key, title, results[key]["value"], unit, n, results[key]["interval_95"], None, how)
        for key, title, unit in (
            ("bits_per_byte", "Bits per byte", "bits/byte"),
            ("loss", "Loss", "nats"),
            ("perplexity", "Perplexity", ""),
        )
    ]
    if split != "val" and "val" in text.splits:
        known = text.losses("val")
        sums, counts = by_window(known, text.windows_read("val")[0])
        title = "Loss, validation"
        found.append(mean_measure("val_loss", title, "nats", sums, counts, n=len(known)))
    return found


def baselines(text: Text, split: str, losses: Tensor, windows: Tensor) -> list[Measure]:
    """Return bits per byte of n-grams and a compressor, and by how much the model beats n-grams."""
    vocab_size = len(text.tokenizer.vocabulary)
    order = ORDER_SMALL if vocab_size <= SMALL_VOCABULARY else ORDER_LARGE
    train, test = text.tokens("train"), np.asarray(text.tokens(split))
    counted = np.asarray(train[-MOST_COUNTED:])
    rivals = torch.from_numpy(ngram_losses(counted, test, vocab_size, order)[:, 1:])
    sizes = token_sizes(text, split)
    best = int(rivals.mean(dim=1).argmin())
    names = [f"{m}-gram" for m in range(1, order + 1)]
    better, title = rivals[best] - losses, f"The model less than the {names[best]}, paired"
    found = [
        bits_measure(key, name, of, sizes, windows)
        for key, name, of in (
            *((f"ngram_{m + 1}", names[m], rivals[m]) for m in range(order)),
            ("better", title, better),
        )
    ]
    told = as_bytes(train[-MOST_COMPRESSED:], text.tokenizer)[-MOST_COMPRESSED:]
    asked = as_bytes(test[:MOST_COMPRESSED_TEST], text.tokenizer)[:MOST_COMPRESSED_TEST]
    value = compressed_bits(told, asked)
    how = "one text has one size"
    return [*found, Measure("compressor", "LZMA", value, "bits/byte", len(asked), how=how)]


def repeated_and_not(text: Text, split: str, losses: Tensor, windows: Tensor) -> list[Measure]:
    """Return the bits per byte of text that stands in the training text, and of the rest."""
    copied = torch.from_numpy(np.append(0, copied_from_training(text, split).cumsum()))
    lengths = torch.tensor([len(token) for token in text.tokenizer.vocabulary])
    ends = lengths[tokens_of(text, split)].cumsum(0)
    repeated = copied[ends].diff() == ends.diff()  # tokens all of whose bytes do
    sizes = token_sizes(text, split)
    return [
        bits_measure(key, title, losses[chosen], sizes[chosen], windows[chosen])
        for key, title, chosen in (
            ("bits_repeated", "Bits per byte of it", repeated),
            ("bits_new", "Bits per byte of the rest", ~repeated),
        )
        if chosen.any()
    ]


def bits_measure(key: str, title: str, losses: Tensor, sizes: Tensor, windows: Tensor) -> Measure:
    """Return losses of tokens, nats, that stand for `sizes` bytes as bits per byte, by window."""
    bits, _ = by_window(losses / math.log(2), windows)
    num_bytes, _ = by_window(sizes, windows)
    return mean_measure(key, title, "bits/byte", bits, num_bytes, n=len(losses))


def known_and_new(subject: Subject, text: Text, split: str) -> list[Measure]:
    """Return the loss on windows of training text and of others, each read from nothing."""
    found = []
    for name, title in (("train", "training"), (split, split)):
        count = min(GAP_WINDOWS, subject.n)
        losses = text.losses_of(text.windows(name, count, subject.generator("windows of text")))
        sums, counts = losses.sum(dim=1), torch.full((len(losses),), losses.shape[1])
        key, title = f"{name}_windows_loss", f"Loss on windows of {title} text"
        found.append(
            mean_measure(key, title, "nats", sums, counts, n=losses.numel(), seed=subject.seed)
        )
    return found


def compared(subject: Subject, text: Text, split: str, results: dict[str, Any]) -> str:
    """Return how this compares with what the run recorded of the same checkpoint and text."""
    is_same = subject.record.get("data", {}).get("sha256") == text.data.info["sha256"]
    known = recorded(subject, split, is_same)
    if isinstance(known, str):
        return known
    then, now = known["loss"], results["loss"]
    return (
        f"run.json recorded {then['value']:.5f} nats on {then['count']:,} tokens for this "
        f"checkpoint; here, in float32, {now['value']:.5f} on {now['count']:,}: a difference of "
        f"{now['value'] - then['value']:+.1e}."
    )


def mark_of(measures: dict[str, Measure], found: Copying) -> Mark:
    """Return the mark by `RULE`."""
    if not is_better(measures):
        return "fails"
    is_beaten = compressor_wins(measures)
    return "caution" if is_beaten or found.copies_more or found.extracts_more else "holds"


def is_better(measures: dict[str, Measure]) -> bool:
    interval = measures["better"].interval_95
    return interval is not None and interval[0] > 0


def compressor_wins(measures: dict[str, Measure]) -> bool:
    model, rival = measures["bits_per_byte"].value, measures["compressor"].value
    return model is not None and rival is not None and rival < model


def verdict_of(measures: dict[str, Measure], found: Copying, split: str) -> str:
    grams = [m for key, m in measures.items() if key.startswith("ngram_")]
    best = min(grams, key=lambda m: m.value or math.inf)
    bits, rival, new = (measures.get(key) for key in ("bits_per_byte", "compressor", "bits_new"))
    assert bits is not None
    assert rival is not None
    assert bits.value is not None
    told = (
        f"It needs {bits.value:.2f} bits for a byte of {split} text (95 % interval "
        f"{bits.interval()}; 8 as it is stored), {'less' if is_better(measures) else 'no less'} "
        f"than counting short sequences does ({best.value:.2f}). A compressor that has read the "
        f"training text needs {'only ' * compressor_wins(measures)}{rival.value:.2f}"
    )
    if "bits_repeated" in measures and new is not None:
        told += f"; on text that does not stand there the model needs {new.value:.2f}"
    told += "."
    if found.copies_more or found.extracts_more:
        what = "Its samples copy" if found.copies_more else "It recites"
        return f"{told} {what} more of the training text than of other text."
    return f"{told} No sign that it copies more of it than real text does."
