"""What a language model writes, and how much of it is copied from the training text.

Shape letters: B prompts, P tokens of a prompt, T tokens that follow it.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from project.reporting.findings import Block, Figures, Measure, Passage, Words, fact, missing, share
from project.reporting.means import mean_measure
from project.reporting.subject import Subject
from project.reporting.text.excerpts import as_bytes, byte_pieces
from project.reporting.text.memorisation import Bytes, copied_bytes, longest_copy, reproduced_tokens
from project.reporting.text.opened import Text
from project.reporting.text.repetition import SPAN
from project.tasks.sampling import generate

SAMPLES, PROMPT_TOKENS = 32, 64
SAMPLE_TOKENS, SLOW_SAMPLE_TOKENS = 400, 100  # slow: where each new token reads all before again
SHOWN_TOKENS = 300
TEMPERATURES = (1.0, 0.8)
EXTRACTED = 50  # tokens of a prompt and after it: Carlini et al. 2022
MOST_SEARCHED = 16_000_000  # training tokens, the last ones: they are searched some 30 times
WHAT = f"""\
Prompts are taken from text that was not trained on; the model goes on, and so did the writer of \
the text. It is counted how much of each lies in spans of {SPAN} bytes that stand letter for \
letter in the training text. What the model copies beyond what real text repeats, it has \
memorised. Below, passages of the training text are begun, and it is counted how often the \
model's likeliest continuation is the passage itself ({EXTRACTED} tokens after {EXTRACTED}, \
Carlini et al. 2022); text that was not trained on shows how often that happens without memory."""


class Copying(NamedTuple):
    """What to show; and whether samples copy, and prompts extract, more than without memory."""

    blocks: list[Block]
    copies_more: bool
    extracts_more: bool


def copying(subject: Subject, text: Text, split: str) -> Copying:
    generator = subject.generator("copying")
    train = list(byte_pieces(text.tokens("train")[-MOST_SEARCHED:], text.tokenizer))
    prompts, truth = prompts_of(text, split, generator)
    real, figures, _ = copied("real", f"{split} text", train, bytes_of(text, truth.tolist()), None)
    passages: list[Block] = []
    copies_more = False
    for temperature in TEMPERATURES:
        rows = samples(subject, text, prompts, truth.shape[1], temperature)
        key, title = f"t{temperature}", f"samples, temperature {temperature}"
        written = bytes_of(text, rows)
        shares, measures, longest = copied(key, title, train, written, subject.seed)
        beyond = [
            a - b for a, b in zip(shares, real, strict=True) if a is not None and b is not None
        ]
        title, how = f"Beyond real text, {title}", "normal, paired by the prompt"
        more = mean_share(f"beyond_{key}", title, beyond, subject.seed, how)
        figures += [*measures, more]
        if temperature == 1.0:
            copies_more = more.interval_95 is not None and more.interval_95[0] > 0
            passages.append(longest)
        passages.append(sample_passage(text, prompts[0], rows[0], temperature))
    extraction, extracts_more = extracted(subject, text, split, generator)
    of_training = f"Copied from the training text ({sum(map(len, train)):,} bytes of it)"
    blocks = [Words(WHAT), Figures(figures, of_training), *passages, extraction]
    return Copying(blocks, copies_more, extracts_more)


def bytes_of(text: Text, rows: list[list[int]]) -> list[Bytes]:
    return [np.frombuffer(as_bytes(np.array(row), text.tokenizer), np.uint8) for row in rows]


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


def copied(
    key: str, title: str, train: list[Bytes], texts: list[Bytes], seed: int | None
) -> tuple[list[float | None], list[Measure], Passage]:
    """Return the share of each text that is copied, that of all with the longest copy, and it.

    The share is None of a text that is shorter than a span.
    """
    found = copied_bytes(train, texts, SPAN)
    shares = [float(here.mean()) if len(here) >= SPAN else None for here in found]
    known = [share for share in shares if share is not None]
    length, number, place = longest_copy(train, texts)
    copy = texts[number][place : place + length].tobytes().decode(errors="replace")
    of_share = f"In copied spans of {SPAN} bytes, {title}"
    measures = [
        mean_share(f"copied_{key}", of_share, known, seed, "normal, over passages"),
        fact(f"longest_{key}", f"Longest copy, {title}", length, "bytes"),
    ]
    heading = f"The longest span that was copied in {title}: {length:,} bytes"
    return shares, measures, Passage(copy, heading)


def mean_share(key: str, title: str, shares: list[float], seed: int | None, how: str) -> Measure:
    if not shares:
        return missing(key, title, f"no passage has {SPAN} bytes")
    return mean_measure(key, title, "%", torch.tensor(shares), seed=seed, how=how)


def sample_passage(text: Text, prompt: Tensor, written: list[int], temperature: float) -> Passage:
    shown = text.tokenizer.decode(written[:SHOWN_TOKENS])
    title = f"A sample at temperature {temperature}; the model goes on at the bar"
    return Passage(f"{text.tokenizer.decode(prompt.tolist())}|{shown}", title)


def extracted(
    subject: Subject, text: Text, split: str, generator: torch.Generator
) -> tuple[Figures, bool]:
    """Return how often passages are reproduced, and whether those trained on more than others."""
    limit = getattr(text.network, "context_length", 2 * EXTRACTED)
    prompt = min(EXTRACTED, limit // 2)
    follow = min(EXTRACTED, limit - prompt + 1)
    measures = []
    for name, key in (("train", "extracted"), (split, "extracted_control")):
        length = prompt + follow - 1
        batch = text.windows(name, subject.n, generator, length)
        if batch.inputs.shape[1] < length:
            continue
        right = reproduced_tokens(
            text.network, batch.inputs.to(text.device), batch.targets.to(text.device),
            prompt, len(text.tokenizer.vocabulary),
        )  # fmt: skip
        of = "training" if name == "train" else name
        title = f"All {follow} tokens after {prompt} reproduced, {of} text"
        until = f"Tokens reproduced until the first error, {of} text"
        measures += [
            share(key, title, int((right == follow).sum()), len(right), subject.seed),
            mean_measure(
                f"{key}_tokens", until, "", right, seed=subject.seed, how="normal, over passages"
            ),
        ]
    ends = [m.interval_95 for m in measures if m.unit == "%" and m.interval_95]
    more = len(ends) == 2 and ends[0][0] > ends[1][1]
    return Figures(measures, "Reproduced from the training text"), more
