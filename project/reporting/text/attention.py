"""Where the heads of a transformer look, of the project's own attention and of torch's.

Shape letters: B windows, T tokens of a window, D width, N heads.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from project.models.transformer import CausalSelfAttention, rotate


def has_attention(network: nn.Module) -> bool:
    """Return whether `attention_maps` finds anything."""
    return any(
        isinstance(m, CausalSelfAttention | nn.MultiheadAttention) for m in network.modules()
    )


@torch.no_grad()
def attention_maps(network: nn.Module, tokens: Tensor) -> list[Tensor]:
    """Return the weights of each attention layer, in the order in which they are called.

    Returns:
        One (B, N, T, T) a layer, row the position that looks, column the one looked at; none for
        a network without attention. Those of `CausalSelfAttention` are computed again from what
        goes in, since the fused attention that it calls does not give them.

    Args:
        tokens: int64 (B, T), read from an empty state.
    """
    maps: list[Tensor] = []
    hooks = []
    for module in network.modules():
        if isinstance(module, CausalSelfAttention):
            hooks.append(module.register_forward_pre_hook(partial(keep_recomputed, maps)))
        elif isinstance(module, nn.MultiheadAttention):
            hooks.append(module.register_forward_pre_hook(ask_for_weights, with_kwargs=True))
            hooks.append(module.register_forward_hook(partial(keep_returned, maps)))
    try:
        network(tokens)
    finally:
        for hook in hooks:
            hook.remove()
    return maps


def keep_recomputed(maps: list[Tensor], module: CausalSelfAttention, arguments: Any) -> None:
    maps.append(causal_weights(module, arguments[0], arguments[1]))


def ask_for_weights(module: nn.Module, arguments: Any, options: dict[str, Any]) -> Any:
    return arguments, options | {"need_weights": True, "average_attn_weights": False}


def keep_returned(maps: list[Tensor], module: nn.Module, arguments: Any, output: Any) -> None:
    maps.append(output[1])


def causal_weights(
    module: CausalSelfAttention, x: Tensor, rotation: tuple[Tensor, Tensor]
) -> Tensor:
    """Return the weights (B, N, T, T) with which a module attends over its input x (B, T, D)."""
    query, key = (
        layer(x).unflatten(-1, (module.num_heads, -1)).transpose(1, 2)  # (B, N, T, D / N)
        for layer in (module.query, module.key)
    )
    query, key = (rotate(F.rms_norm(q, q.shape[-1:]), rotation) for q in (query, key))
    scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
    return scores.masked_fill(future, -torch.inf).softmax(dim=-1)


def attention_distances(maps: Tensor) -> Tensor:
    """Return how many tokens back each head looks on average, (B, N) for weights (B, N, T, T).

    Over the positions of the later half of the window, which can look back at least so far.
    """
    length = maps.shape[-1]
    places = torch.arange(length, device=maps.device)
    back = places[:, None] - places  # (T, T)
    return (maps * back).sum(dim=3)[:, :, length // 2 :].mean(dim=2)
