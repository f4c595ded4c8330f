"""What a language model writes, and how much of it is copied from the training text.

Shape letters: B prompts, P tokens of a prompt, T tokens that follow it.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from project.data.text import take_windows
from project.reporting.findings import Block, Figures, Measure, Passage, Words, fact, missing, share
from project.reporting.memorisation import (
    Characters,
    characters,
    longest_copy,
    reproduced_tokens,
    spans_found,
)
from project.reporting.subject import Subject, Text
from project.tasks.sampling import generate
from project.training.intervals import mean_interval

SAMPLES, PROMPT_TOKENS = 32, 64
SAMPLE_TOKENS, SLOW_SAMPLE_TOKENS = 400, 100  # slow: where each new token reads all before again
SHOWN_TOKENS = 300
TEMPERATURES = (1.0, 0.8)
SPAN = 50  # characters that are not alike by chance
EXTRACTED = 50  # tokens of a prompt and after it: Carlini et al. 2022
MOST_SEARCHED = 16_000_000  # training tokens in which copies are looked for, the last ones
WHAT = f"""\
Prompts are taken from text that was not trained on; the model goes on, and so did the writer of \
the text. How much of each stands letter for letter in the training text is counted in spans of \
{SPAN} characters. What the model copies beyond what real text repeats, it has memorised. Below, \
passages of the training text are begun, and it is counted how often the model's likeliest \
continuation is the passage itself ({EXTRACTED} tokens after {EXTRACTED}, Carlini et al. 2022); \
text that was not trained on shows how often that happens without memory."""


class Copying(NamedTuple):
    """What to show; and whether samples copy, and prompts extract, more than without memory."""

    blocks: list[Block]
    copies_more: bool
    extracts_more: bool


def copying(subject: Subject, text: Text, split: str) -> Copying:
    generator = subject.generator("copying")
    train = training_characters(text)
    prompts, truth = prompts_of(text, split, generator)
    real = [characters(text.tokenizer.decode(row)) for row in truth.tolist()]
    of_real = shares_found(train, real)
    figures = copied("real", f"{split} text", train, real, of_real, None)
    passages: list[Block] = []
    copies_more = False
    for temperature in TEMPERATURES:
        rows = samples(subject, text, prompts, truth.shape[1], temperature)
        written = [characters(text.tokenizer.decode(row)) for row in rows]
        found = shares_found(train, written)
        key, title = f"t{temperature}", f"samples, temperature {temperature}"
        figures += copied(key, title, train, written, found, subject.seed)
        more = beyond(key, title, found, of_real, subject.seed)
        figures.append(more)
        if temperature == 1.0:
            copies_more = more.interval_95 is not None and more.interval_95[0] > 0
            passages.append(longest_passage(train, written))
        passages.append(sample_passage(text, prompts[0], rows[0], temperature))
    extraction, extracts_more = extracted(subject, text, split, generator)
    of_training = f"Copied from the training text ({len(train):,} characters of it)"
    blocks = [Words(WHAT), Figures(figures, of_training), *passages, extraction]
    return Copying(blocks, copies_more, extracts_more)


def training_characters(text: Text) -> Characters:
    """Return the training text, or its end where it is long."""
    tokens = np.asarray(text.tokens("train")[-MOST_SEARCHED:])
    return characters(text.tokenizer.decode(tokens.tolist()))


def prompts_of(text: Text, split: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return prompts int64 (B, P) from anywhere in a split, and what follows them there (B, T)."""
    follow = SAMPLE_TOKENS if hasattr(text.network, "extend") else SLOW_SAMPLE_TOKENS
    batch = text.windows(split, SAMPLES, generator, PROMPT_TOKENS + follow - 1)
    tokens = torch.cat([batch.inputs, batch.targets[:, -1:]], dim=1)
    prompt = min(PROMPT_TOKENS, max(1, tokens.shape[1] // 4))
    return tokens[:, :prompt], tokens[:, prompt:]


def samples(
    subject: Subject, text: Text, prompts: Tensor, count: int, temperature: float
) -> list[list[int]]:
    """Return `count` tokens that the network writes after each prompt."""
    steps = generate(
        text.network,
        prompts.to(text.device),
        count,
        temperature,
        seed=subject.seed,
        vocab_size=len(text.tokenizer.vocabulary),
    )
    written = list(subject.track(steps, "writing samples", count))
    return torch.stack(written, dim=1).tolist()


def shares_found(train: Characters, texts: list[Characters]) -> list[float | None]:
    """Return of each text the share of its spans that stand in the training text.

    None of a text that is shorter than a span.
    """
    found = spans_found(train, texts, SPAN)
    return [float(here.mean()) if len(here) else None for here in found]


def copied(
    key: str,
    title: str,
    train: Characters,
    texts: list[Characters],
    shares: list[float | None],
    seed: int | None,
) -> list[Measure]:
    of_share = f"Spans of {SPAN} characters, {title}"
    known = [found for found in shares if found is not None]
    length, _, _ = longest_copy(train, texts)
    return [
        mean_share(f"copied_{key}", of_share, known, seed, "normal, over passages"),
        fact(f"longest_{key}", f"Longest copy, {title}", length, "characters"),
    ]


def beyond(
    key: str, title: str, found: list[float | None], real: list[float | None], seed: int
) -> Measure:
    """Return how much more of the samples is copied than of the text that follows their prompts."""
    both = zip(found, real, strict=True)
    change = [a - b for a, b in both if a is not None and b is not None]
    title = f"Beyond real text, {title}"
    return mean_share(f"beyond_{key}", title, change, seed, "normal, paired by the prompt")


def mean_share(key: str, title: str, shares: list[float], seed: int | None, how: str) -> Measure:
    n = len(shares)
    if n == 0:
        return missing(key, title, f"no passage has {SPAN} characters")
    how = how if n > 1 else "a single passage"
    return Measure(key, title, sum(shares) / n, "%", n, mean_interval(shares, [1] * n), seed, how)


def sample_passage(text: Text, prompt: Tensor, written: list[int], temperature: float) -> Passage:
    shown = text.tokenizer.decode(written[:SHOWN_TOKENS])
    title = f"A sample at temperature {temperature}; the model goes on at the bar"
    return Passage(f"{text.tokenizer.decode(prompt.tolist())}|{shown}", title)


def longest_passage(train: Characters, written: list[Characters]) -> Passage:
    length, number, place = longest_copy(train, written)
    copy = written[number][place : place + length].tobytes().decode("utf-32-le", "replace")
    return Passage(copy, f"The longest span that the samples copied: {length:,} characters")


def extracted(
    subject: Subject, text: Text, split: str, generator: torch.Generator
) -> tuple[Figures, bool]:
    """Return how often passages are reproduced, and whether those trained on more than others."""
    limit = getattr(text.network, "context_length", 2 * EXTRACTED)
    prompt = min(EXTRACTED, limit // 2)
    follow = min(EXTRACTED, limit - prompt + 1)
    measures = []
    for name, key in (("train", "extracted"), (split, "extracted_control")):
        tokens = text.tokens(name)
        length = prompt + follow - 1
        number = (len(tokens) - 1) // length  # of passages that do not overlap
        if number == 0:
            continue
        chosen = torch.randperm(number, generator=generator)[: subject.n].sort().values
        starts = chosen.numpy().astype(np.int64) * length
        batch = take_windows(tokens, starts, np.full(len(starts), length), length, False)
        right = reproduced_tokens(
            text.network, batch.inputs.to(text.device), batch.targets.to(text.device),
            prompt, len(text.tokenizer.vocabulary),
        )  # fmt: skip
        n = len(right)
        of = "training" if name == "train" else name
        title = f"All {follow} tokens after {prompt} reproduced, {of} text"
        measures += [
            share(key, title, int((right == follow).sum()), n, subject.seed),
            Measure(
                f"{key}_tokens", f"Tokens reproduced until the first error, {of} text",
                right.double().mean().item(), "", n, mean_interval(right.tolist(), [1] * n),
                subject.seed, "normal, over passages" if n > 1 else "a single passage",
            ),
        ]  # fmt: skip
    ends = [m.interval_95 for m in measures if m.unit == "%" and m.interval_95]
    more = len(ends) == 2 and ends[0][0] > ends[1][1]
    return Figures(measures, "Reproduced from the training text"), more
