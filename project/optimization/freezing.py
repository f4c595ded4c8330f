"""Parts of a network that training leaves as they are."""

from collections.abc import Iterator
from fnmatch import fnmatchcase

from torch import nn

from project.messages import UsageError, nearest


def freeze(network: nn.Module, patterns: list[str]) -> None:
    """Freeze the parameters whose names match, before an optimizer is built.

    A module whose parameters are all frozen, and all that is in it, goes into eval mode: the
    statistics of its batch norms stay, and it drops nothing. Lightning gives every module its own
    mode back after an evaluation.

    Args:
        patterns: Shell patterns of the names of parameters, such as `stem.*` or `*.bias`.

    Raises:
        UsageError: If a pattern matches nothing, or nothing is left to be trained.
    """
    # A tied weight has several names, and each of them means it.
    parameters = list(network.named_parameters(remove_duplicate=False))
    for pattern in patterns:
        matching = [p for name, p in parameters if fnmatchcase(name, pattern)]
        if not matching:
            names = [name for name, _ in parameters]
            parts = [f"{name}.*" for name, _ in network.named_children()]
            hint = nearest(pattern, [*parts, *names]) or f"; its parts are {', '.join(parts)}"
            raise UsageError(
                f"--freeze {pattern!r} matches no parameter of {type(network).__name__}{hint}"
            )
        for parameter in matching:
            parameter.requires_grad = False
    if patterns and not any(p.requires_grad for _, p in parameters):
        raise UsageError(
            f"--freeze {' '.join(patterns)} freezes every parameter of {type(network).__name__}; "
            "leave a part to be trained, such as head.*"
        )
    for part in frozen_parts(network) if patterns else ():
        part.eval()
        for module in part.modules():
            if isinstance(module, nn.RNNBase):
                # The same as eval mode, in which cuDNN passes no gradient back to what is before.
                module.dropout = 0.0
                module.train()


def frozen_parts(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the outermost modules that have parameters, all of which are frozen."""
    parameters = list(network.parameters())
    if parameters and not any(p.requires_grad for p in parameters):
        yield network
        return
    for child in network.children():
        yield from frozen_parts(child)


def trainable_parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)
