"""Which tokens a prediction rests on: attributions of any language model with an `embedding`.

What is explained is the log-probability, in nats, of one token after a window. Every method
returns one signed number a token of the window, (B, T), positive where it speaks for that token.
What a token is compared with is the average token: the mean embedding over a text. Zeros would
not do: `GPT` normalises its embeddings, so that a shrunken token is the same token until it is
almost nothing, all of a path from zero lies in its first thousandth, and gradient times input is
0 for every token. Only outputs of `embedding` are changed, also where the head shares its weight.

Shape letters: B windows, T tokens of a window, D features of a token, V vocabulary.
"""

import torch
from torch import Tensor, nn

from project.reporting.subject import gradients

ROWS = 128  # windows that go through a network at once


class Reader(nn.Module):
    """A language model that reads embeddings in place of tokens."""

    def __init__(self, network: nn.Module) -> None:
        """Take a network on tokens (B, T) that calls its attribute `embedding` once."""
        super().__init__()
        self.network = network

    def forward(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        """Return the log-probability of `targets` (B,) after embeddings (B, T, D), nats (B,)."""
        embedding: nn.Module = self.network.embedding  # type: ignore[assignment]
        hook = embedding.register_forward_hook(lambda *_: embeddings)
        try:
            tokens = targets.new_zeros(embeddings.shape[:2])
            logits = self.network(tokens)[:, -1]  # (B, V)
        finally:
            hook.remove()
        return logits.log_softmax(dim=1).gather(1, targets[:, None])[:, 0]


@torch.no_grad()
def embedded(network: nn.Module, tokens: Tensor) -> Tensor:
    """Return the embeddings (B, T, D) of tokens (B, T)."""
    return network.embedding(tokens)  # type: ignore[operator]


def average_token(network: nn.Module, tokens: Tensor) -> Tensor:
    """Return the mean embedding (D,) over tokens of any shape, each as often as it occurs."""
    return embedded(network, tokens.flatten()).mean(dim=0)


def integrated_gradients(
    network: nn.Module, tokens: Tensor, targets: Tensor, baseline: Tensor, steps: int = 64
) -> Tensor:
    """Return integrated gradients from the average token in every place (captum).

    Source: Sundararajan et al. 2017 (arXiv:1703.01365), Gauss-Legendre quadrature. As captum's
    `LayerIntegratedGradients`, which knows no baseline but that of a token.

    Args:
        targets: What the window is said to be followed by, int64 (B,).
        baseline: (D,).
        steps: Points of the path.
    """
    from captum.attr import IntegratedGradients

    method = IntegratedGradients(Reader(network))
    rows = max(1, ROWS // steps)
    with gradients():
        found = [
            method.attribute(
                part,
                baselines=baseline.expand_as(part),
                additional_forward_args=(target,),
                n_steps=steps,
            ).sum(dim=2)
            for part, target in zip(
                embedded(network, tokens).split(rows), targets.split(rows), strict=True
            )
        ]
    return torch.cat(found).float()


def gradient_times_input(
    network: nn.Module, tokens: Tensor, targets: Tensor, baseline: Tensor
) -> Tensor:
    """Return the gradient times the way from the average token, (B, T): the first order.

    Source: Shrikumar et al. 2016 (arXiv:1605.01713), with a baseline (D,).
    """
    with gradients():
        embeddings = embedded(network, tokens).requires_grad_()
        (gradient,) = torch.autograd.grad(Reader(network)(embeddings, targets).sum(), embeddings)
    return (gradient * (embeddings - baseline)).sum(dim=2).detach()


@torch.no_grad()
def occlusion(network: nn.Module, tokens: Tensor, targets: Tensor, baseline: Tensor) -> Tensor:
    """Return by how much the log-probability falls when one token is made average (captum)."""
    from captum.attr import Occlusion

    embeddings = embedded(network, tokens)
    window = (1, embeddings.shape[2])
    return Occlusion(Reader(network)).attribute(
        embeddings,
        sliding_window_shapes=window,
        strides=window,
        baselines=baseline.expand_as(embeddings),
        additional_forward_args=(targets,),
    )[:, :, 0]  # the same in each feature


@torch.no_grad()
def completeness(
    network: nn.Module, tokens: Tensor, targets: Tensor, baseline: Tensor, values: Tensor
) -> tuple[Tensor, Tensor]:
    """Return |sum of attributions - difference| and |difference|, nats, each (B,).

    The difference is that of the log-probability between the window and average tokens alone.
    """
    embeddings, reader = embedded(network, tokens), Reader(network)
    difference = reader(embeddings, targets) - reader(baseline.expand_as(embeddings), targets)
    return (values.sum(dim=1) - difference).abs(), difference.abs()
