"""What it costs a language model that one token of its context is exchanged for the worst other.

Found by the gradient, as in HotFlip (Ebrahimi et al. 2018, arXiv:1712.06751), and then tried.

Shape letters: B windows, C tokens of a context, T of a window, D features, V vocabulary,
k candidates.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from project.data.loader import IGNORED
from project.data.text import TokenBatch
from project.data.tokenization import Tokens
from project.reporting.findings import Block, Figures, Measure, Passage, missing
from project.reporting.means import mean_measure
from project.reporting.subject import Subject, gradients
from project.reporting.text.opened import Text
from project.tasks.language_modeling import token_losses

EXAMPLES_A_WINDOW = 20  # a twentieth of the report's n
CANDIDATES = 10  # k exchanges that are tried for each window


def exchange_blocks(
    subject: Subject,
    text: Text,
    contexts: Sequence[Tokens],
    continuations: Tensor,
    num_bytes: Tensor,
) -> tuple[list[Block], str]:
    """Return what exchanges of one token of the context cost, and the same in a sentence.

    Args:
        continuations: int64 (B, R).
        num_bytes: Of each continuation, (B,).
    """
    n = min(len(contexts), max(2, subject.n // EXAMPLES_A_WINDOW))
    size = min(map(len, contexts[:n]))  # of BPE, contexts have different lengths
    same = np.stack([context[-size:] for context in contexts[:n]]).astype(np.int64)
    rows = torch.cat([torch.from_numpy(same), continuations[:n]], dim=1)
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
    at_random = random_flips(inputs, size, tokens, k, subject.generator("exchanges"))
    clean = flip_bits(text, inputs[None], targets)  # (1, B)
    harm, random_harm = (flip_bits(text, f, targets) - clean for f in (by_gradient, at_random))
    measures = exchange_measures(harm, random_harm, num_bytes[:n], subject.seed)
    worst_harm, which = harm.max(dim=0)  # (B,)
    more = (100 * worst_harm.sum() / clean.sum()).item()
    told = f" A single token of {size} exchanged on purpose makes it {more:.0f} % dearer."
    worst = int(worst_harm.argmax())
    flip = by_gradient[which[worst], worst]
    return [Figures(measures, heading), example(text, inputs[worst], flip, size)], told


def exchange_measures(
    harm: Tensor, random_harm: Tensor, num_bytes: Tensor, seed: int
) -> list[Measure]:
    """Return what exchanges found by gradient, and drawn ones, cost: bits (k, B) of each."""
    how, k = "normal, over pairs of windows", len(harm)
    return [
        mean_measure(
            key, f"{title}: the continuation costs more", "bits/byte", bits, num_bytes,
            seed=seed, how=how,
        )
        for key, title, bits in (
            ("flip_random", "Drawn", random_harm.mean(dim=0)),
            ("flip_random_worst", f"The worst of {k} drawn", random_harm.max(dim=0).values),
            ("flip_gradient", f"The worst of {k} found by gradient", harm.max(dim=0).values),
        )
    ]  # fmt: skip


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


def flip_estimates(network: nn.Module, inputs: Tensor, targets: Tensor, context: int) -> Tensor:
    """Return by how much each exchange of a token would raise the loss, to first order.

    (E[v] - E[x_t]) . d loss / d x_t, for the embedding E and the sum of the losses of a window.

    Args:
        network: In evaluation mode, with an `nn.Embedding` of its tokens.
        inputs, targets: int64 (B, T); a target of -100 does not count.
        context: Tokens at the beginning that may be exchanged.

    Returns:
        nats, float (B, context, V).

    Raises:
        ValueError: If the network has no `nn.Embedding`.
    """
    embedding = next((m for m in network.modules() if isinstance(m, nn.Embedding)), None)
    if embedding is None:
        raise ValueError(
            f"{type(network).__name__} has no nn.Embedding, so no token can be flipped"
        )
    kept: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[-1]

    handle = embedding.register_forward_hook(keep)
    try:
        with gradients():
            loss = token_losses(network(inputs), targets).sum()
            gradient = torch.autograd.grad(loss, kept[0])[0][:, :context]  # (B, context, D)
    finally:
        handle.remove()
    weight = embedding.weight.detach()
    of_others = gradient @ weight.T  # (B, context, V)
    return of_others - of_others.gather(2, inputs[:, :context, None])


def likeliest_flips(
    network: nn.Module, inputs: Tensor, targets: Tensor, context: int, tokens: Tensor, k: int
) -> Tensor:
    """Return the inputs with the k exchanges of a single token that the gradient expects most of.

    Args:
        tokens: Those to put in, int64.

    Returns:
        int64 (k, B, T).
    """
    estimates = flip_estimates(network, inputs, targets, context)
    allowed = torch.full((estimates.shape[2],), -torch.inf, device=estimates.device)
    allowed[tokens.to(estimates.device)] = 0.0
    estimates = estimates + allowed
    estimates.scatter_(2, inputs[:, :context, None], -torch.inf)  # the token itself is no exchange
    best = estimates.flatten(1).topk(k, dim=1).indices  # (B, k)
    return flipped(inputs, best // estimates.shape[2], best % estimates.shape[2])


def random_flips(
    inputs: Tensor, context: int, tokens: Tensor, k: int, generator: Generator
) -> Tensor:
    """Return the inputs (k, B, T) with k exchanges of a single token, drawn evenly."""
    shape = (len(inputs), k)
    places = torch.randint(context, shape, generator=generator)
    # A step of at least 1 around the circle of tokens never ends where it began.
    was = torch.searchsorted(tokens, inputs.cpu().gather(1, places))
    steps = torch.randint(1, len(tokens), shape, generator=generator)
    values = tokens[(was + steps) % len(tokens)]
    return flipped(inputs, places.to(inputs.device), values.to(inputs.device))


def flipped(inputs: Tensor, places: Tensor, values: Tensor) -> Tensor:
    """Return copies of the inputs (B, T), of which copy j has `values[:, j]` at `places[:, j]`.

    Args:
        places, values: int64 (B, k).

    Returns:
        int64 (k, B, T).
    """
    copies = inputs.repeat(places.shape[1], 1, 1)
    return copies.scatter_(2, places.T[:, :, None], values.T[:, :, None])
