"""What a task measures on a split, with 95 % intervals."""

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from project.intervals import mean_interval, wilson_interval


def image_results(confusion: Tensor, losses: Tensor) -> dict[str, Any]:
    """Return accuracy and loss with their 95 % intervals, the accuracy of each class, and counts.

    Args:
        confusion: int64 (K, K), row true class, column predicted; a class without images has
            no accuracy (None).
        losses: Of each image, nats, (n,).
    """
    right, count = int(confusion.trace()), int(confusion.sum())
    per_class = [
        row[label] / sum(row) if sum(row) else None for label, row in enumerate(confusion.tolist())
    ]
    return {
        "loss": {
            "value": losses.double().mean().item(),
            "interval_95": mean_interval(losses.tolist(), [1] * count),
            "count": count,
        },
        "accuracy": share_right(right, count),
        "class_accuracy": per_class,
        "confusion": confusion.tolist(),
    }


def share_right(right: int, count: int) -> dict[str, Any]:
    """Return the share of images that are right, with its 95 % interval and counts."""
    return {
        "value": right / count,
        "interval_95": wilson_interval(right, count),
        "right": right,
        "count": count,
    }


def text_results(losses: Tensor, tokens: Tensor, num_bytes: int) -> dict[str, Any]:
    """Return loss, perplexity and bits per byte with their 95 % intervals over windows.

    Args:
        losses: Sum over the tokens of each window, nats, float64 (n,).
        tokens: Of each window, above 0, int64 (n,).
        num_bytes: That all tokens stand for; 0 where the data do not say.
    """
    count = int(tokens.sum())
    loss = losses.sum().item() / count
    interval = mean_interval(losses.tolist(), tokens.tolist())

    def figure_of(function: Callable[[float], float]) -> dict[str, Any]:
        ends = None if interval is None else [function(end) for end in interval]
        return {"value": function(loss), "interval_95": ends}

    results = {
        "loss": figure_of(lambda nats: nats) | {"count": count, "windows": len(tokens)},
        "perplexity": figure_of(lambda nats: math.exp(min(nats, 700.0))),
    }
    if num_bytes > 0:
        results["bits_per_byte"] = figure_of(lambda nats: nats * count / num_bytes / math.log(2))
    return results
