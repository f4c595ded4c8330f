"""How far back does a language model look? By what its loss needs, and where its heads look.

Shape letters: B windows, T tokens of a window, N heads.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from project.intervals import Z_95, mean_interval
from project.reporting.findings import (
    Block,
    Figures,
    Measure,
    Picture,
    Table,
    Words,
    fact,
    missing,
)
from project.reporting.means import mean_measure
from project.reporting.subject import Subject
from project.reporting.text.attention import attention_distances, attention_maps, has_attention
from project.reporting.text.opened import Text
from project.reporting.text.pictures import context_picture, heads_picture

NEAR = 0.05  # share of the loss: where more context brings less, it is as good as not seen
FURTHER = 2  # contexts that a network without an end to its context is read for
APART = 16  # tokens between two whose loss is compared: their contexts overlap, they do not
AT_ONCE = 8192  # tokens that go through a network together
SHOWN_HEADS = 4
NOT_ATTRIBUTION = (
    "Attention is not attribution: quite different weights can give the same prediction (Jain & "
    "Wallace 2019, arXiv:1902.10186). It shows where a head reads, not what decides."
)


class Reach(NamedTuple):
    """Losses of the same tokens, nats (B, number of lengths), after contexts of each length."""

    lengths: list[int]
    losses: Tensor
    seed: int = 0  # by which the tokens were drawn

    def gains(self) -> dict[int, Measure]:
        """Return by how much the loss with each context is above that with the longest, paired."""
        found, longest = {}, self.lengths[-1]
        for length, losses in zip(self.lengths[:-1], self.losses.T, strict=False):
            above = (losses - self.losses[:, -1]).double()
            title = f"loss with a context of {length:,}, above that with {longest:,}"
            how = "normal, paired over tokens"
            found[length] = mean_measure(
                f"context_{length}", title, "nats", above, seed=self.seed, how=how
            )
        return found

    def tokens(self) -> int:
        """Return the shortest context from which on more brings less than `NEAR` of the loss.

        Beyond chance: the 95 % interval of what it brings ends below.
        """
        most = NEAR * self.losses[:, -1].mean().item()
        ends = {k: m.interval_95[1] if m.interval_95 else math.inf for k, m in self.gains().items()}
        short = [length for length, end in ends.items() if end > most]
        return next(length for length in self.lengths if not short or length > short[-1])

    def in_words(self) -> str:
        far, longest = self.tokens(), self.lengths[-1]
        if far == longest:
            return f"It looks back at least {longest:,} tokens, as far as was measured."
        tokens = f"no more than about {far:,} tokens" if far > 1 else "hardly more than one token"
        return (
            f"It looks back {tokens}: what lies before lowers its loss by less than "
            f"{100 * NEAR:.0f} % (measured up to {longest:,})."
        )


def measured_reach(subject: Subject, text: Text) -> Reach:
    split, most = text.measured_split, text.context_length
    if not hasattr(text.network, "context_length"):  # it can read on without an end
        most *= FURTHER
    draws = subject.generator("context")
    batch = text.windows(split, subject.n, draws, most, APART)
    most = batch.inputs.shape[1]
    lengths = [2**i for i in range(math.ceil(math.log2(most)))] + [most]
    inputs, targets = batch.inputs.to(text.device), batch.targets[:, -1].to(text.device)
    losses = losses_by_context(text.network, inputs, targets, lengths)
    return Reach(lengths, losses, subject.seed)


@torch.no_grad()
def losses_by_context(
    network: nn.Module, tokens: Tensor, targets: Tensor, lengths: list[int]
) -> Tensor:
    """Return the loss of what follows windows when their last tokens alone are read, nats.

    Args:
        tokens: (B, T).
        targets: What follows, (B,).
        lengths: Tokens read, each in [1, T].

    Returns:
        (B, number of lengths), on the CPU.
    """
    columns = []
    for length in lengths:
        rows = max(1, AT_ONCE // length)
        logits = [network(part[:, -length:])[:, -1].float() for part in tokens.split(rows)]
        losses = F.cross_entropy(torch.cat(logits), targets, reduction="none")
        columns.append(losses.cpu())
    return torch.stack(columns, dim=1)


def reach_blocks(reach: Reach) -> list[Block]:
    """Return how the loss falls with the context."""
    n, far = len(reach.losses), reach.tokens()
    title = f"shortest context beyond which less than {100 * NEAR:.0f} % of the loss is gained"
    found = [
        fact("reach", title, far, "tokens", "from the intervals below"),
        *reach.gains().values(),
    ]
    means = reach.losses.mean(dim=0).tolist()
    ends = [mean_interval(losses.tolist(), [1] * n) for losses in reach.losses.T.double()]
    caption = (
        f"Loss of the same {n:,} tokens when only the last tokens before them are read, from an "
        "empty state; bars are 95 % intervals of each mean, wider than those of the differences, "
        "which are paired. Dashed: the shortest context beyond which more brings less than "
        f"{100 * NEAR:.0f} % of the loss."
    )
    alt = f"The loss hardly falls any more beyond a context of {far}."
    picture = context_picture(
        reach.lengths, means, [e or (m, m) for e, m in zip(ends, means, strict=True)], far
    )
    words = (
        "The distance that a model uses, not the one that it can. A recurrent network that was "
        "trained on streams seldom began from an empty state, so its loss after few tokens also "
        "shows that."
    )
    blocks: list[Block] = [Words(words), Picture("effective_context", picture, caption, alt)]
    return [*blocks, Figures(found, "Effective context")]


def attention_blocks(text: Text, tokens: Tensor, seed: int) -> list[Block]:
    """Return where the heads look on windows (B, T), or that there are none."""
    if not has_attention(text.network):
        why = f"{type(text.network).__name__} has no attention"
        return [Figures([missing("attention_distance", "attention", why)], "Attention")]
    maps = [weights.cpu() for weights in attention_maps(text.network, tokens)]
    distances = torch.stack([attention_distances(weights) for weights in maps], dim=1)
    n, layers, heads = distances.shape
    means, half = distances.mean(dim=0), Z_95 * distances.std(dim=0) / n**0.5
    names = {(i, j): f"layer {i + 1}, head {j + 1}" for i in range(layers) for j in range(heads)}
    order = sorted(names, key=lambda head: means[head].item())
    found = []
    for key, head in (("nearest", order[0]), ("farthest", order[-1])):
        values = distances[:, *head]
        title = f"head that looks {key} back: {names[head]}"
        found.append(mean_measure(f"attention_{key}", title, "tokens", values, seed=seed))
    rows = [
        [str(i + 1), *(f"{means[i, j]:.1f} ± {half[i, j]:.1f}" for j in range(heads))]
        for i in range(layers)
    ]
    head_names = ["layer", *(f"head {j + 1}" for j in range(heads))]
    title = (
        f"Tokens back, mean over the later half of {n} windows, with 95 % intervals; a head that "
        f"looks at all tokens alike would stand at {3 * tokens.shape[1] / 8:.0f}"
    )
    picked = torch.linspace(0, len(order) - 1, min(SHOWN_HEADS, len(order))).round().int().tolist()
    shown = {names[order[i]]: maps[order[i][0]][0, order[i][1]] for i in picked}
    caption = (
        "Attention of every position of the first window of the sample, by heads from the nearest "
        "to the farthest looking: each row adds up to 1, and colours are square roots, so that "
        "small weights are seen."
    )
    alt = "Lower triangles: no head looks ahead."
    return [
        Figures(found, "Attention"),
        Words(NOT_ATTRIBUTION),
        Table(head_names, rows, title),
        Picture("attention_heads", heads_picture(shown), caption, alt),
    ]
