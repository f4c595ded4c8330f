"""Text from a language model, token by token.

Shape letters: B samples, t tokens read so far, V vocabulary.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from project.data.loader import derived_seed


def generate(
    network: nn.Module,
    prompt: Tensor,
    max_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    vocab_size: int | None = None,
) -> Iterator[Tensor]:
    """Yield `max_tokens` times the next token of each sample, int64 (B,), on the CPU.

    Sample b is a function of the prompt, the options and (seed, b), whatever B is. The network is
    used as it is: call `eval()` before.

    Args:
        network: Maps tokens (B, t) to logits (B, t, V). With a method `extend` each token is read
            once; else the last `context_length` tokens (all, without that attribute) are read
            again for every new one.
        prompt: int64 (B, t), at least one token.
        temperature: Divides the logits; 0 always takes the likeliest token.
        top_k: Draw from the k likeliest tokens only.
        top_p: Draw from the fewest tokens that have this probability together, in (0, 1].
        vocab_size: V of the tokenizer, where the network was built for more: those are not drawn.

    Raises:
        ValueError: If an option is out of range, the prompt is empty, or a logit is not finite.
    """
    check_options(prompt, temperature, top_k, top_p)  # at once, and not at the first token
    generators = [
        torch.Generator().manual_seed(derived_seed("sample", seed, row))
        for row in range(len(prompt))
    ]

    @torch.no_grad()
    def steps() -> Iterator[Tensor]:
        tokens, state = prompt, None
        for _ in range(max_tokens):
            logits, state = read(network, tokens, state)
            logits = logits[:, :vocab_size].float().cpu()
            probabilities = next_probabilities(logits, temperature, top_k, top_p)
            drawn = [
                torch.multinomial(row, 1, generator=generator)
                for row, generator in zip(probabilities, generators, strict=True)
            ]
            tokens = torch.stack(drawn).to(prompt.device)  # (B, 1)
            yield tokens[:, 0].cpu()

    return steps()


def read(network: nn.Module, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
    """Return the logits (B, V) after `tokens` (B, t), which follow what `state` has read."""
    if hasattr(network, "extend"):
        logits, state = network.extend(tokens, state)  # type: ignore[operator]
        return logits[:, -1], state
    context = tokens if state is None else torch.cat([state, tokens], dim=1)
    limit = getattr(network, "context_length", context.shape[1])
    context = context[:, -limit:]
    return network(context)[:, -1], context


def next_probabilities(
    logits: Tensor, temperature: float, top_k: int | None, top_p: float | None
) -> Tensor:
    """Return the probabilities (B, V) that the next token is drawn with.

    The temperature acts first, then `top_k`, then `top_p` (Holtzman et al. 2020, arXiv:1904.09751).

    Args:
        logits: Float (B, V).
    """
    if not logits.isfinite().all():
        raise ValueError(
            "the network's logits are not finite, so there is no next token; was its training "
            "loss finite?"
        )
    if temperature == 0:
        return torch.zeros_like(logits).scatter(1, logits.argmax(dim=1, keepdim=True), 1.0)
    logits = logits / temperature
    if top_k is not None:
        smallest_kept = logits.topk(min(top_k, logits.shape[1])).values[:, -1:]  # (B, 1)
        logits = logits.masked_fill(logits < smallest_kept, -torch.inf)
    probabilities = logits.softmax(dim=1)
    if top_p is not None:
        ordered, order = probabilities.sort(dim=1, descending=True)
        before = ordered.cumsum(dim=1) - ordered  # of all likelier tokens: 0 for the first
        ordered = ordered.masked_fill(before >= top_p, 0)
        probabilities = torch.zeros_like(probabilities).scatter(1, order, ordered)
    return probabilities


def check_options(
    prompt: Tensor, temperature: float, top_k: int | None, top_p: float | None
) -> None:
    if prompt.shape[1] == 0:
        raise ValueError("the prompt has no tokens and at least one is needed")
    if temperature < 0:
        raise ValueError(f"temperature {temperature} must be 0 or more")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k {top_k} must be 1 or more")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p {top_p} must lie in (0, 1]")
