"""The token of a context whose exchange does most harm to what follows, found by the gradient.

Source: HotFlip (Ebrahimi et al. 2018, arXiv:1712.06751), on the embedding of any network.

Shape letters: B windows, T tokens, D features, V vocabulary, k candidates.
"""

from typing import Any

import torch
from torch import Generator, Tensor, nn

from project.reporting.subject import gradients
from project.tasks.language_modeling import token_losses


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
