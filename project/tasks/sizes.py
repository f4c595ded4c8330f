"""Whether a network was built for the data that it is given, and what its outputs are."""

from collections.abc import Callable
from typing import Any

from torch import nn


def check_sizes(
    network: nn.Module, data: Any, names: tuple[str, ...], suits: Callable[[int, int], bool]
) -> None:
    """Compare the attributes `names` where both sides have them.

    Args:
        suits: Whether (what the network has, what the data have) go together.

    Raises:
        ValueError: With every value that does not suit, what the data have, and the flags to set.
    """
    wrong = {}
    for name in names:
        has, needs = getattr(network, name, None), getattr(data, name, None)
        if has is not None and needs is not None and not suits(has, needs):
            wrong[name] = (has, needs)
    if wrong:
        built = ", ".join(f"{name} {has}" for name, (has, _) in wrong.items())
        needed = ", ".join(f"{name} {needs}" for name, (_, needs) in wrong.items())
        flags = " ".join(f"--model.network.{name} {needs}" for name, (_, needs) in wrong.items())
        raise ValueError(
            f"{type(network).__name__} was built for {built}, but the data have {needed}; "
            f"set {flags}"
        )


def is_classifier(network: nn.Module, class_names: Any) -> bool:
    """Return whether a network's logits are one for each class, as far as it says how many.

    Args:
        class_names: Of the data, (K,); None where they are not known.
    """
    num_outputs = getattr(network, "num_classes", None)
    return num_outputs is None or class_names is None or num_outputs == len(class_names)
