"""The results of a run, with intervals, and its closing table."""

from pathlib import Path
from typing import Any

from torch import Tensor

from project.training.intervals import wilson_interval


def counts_with_intervals(confusion: Tensor) -> dict[str, Any]:
    """Return the accuracy with its 95 % Wilson interval, that of each class, and the counts.

    Args:
        confusion: int64 (K, K), row true class, column predicted; a class without images has
            no accuracy (None).
    """
    right, count = int(confusion.trace()), int(confusion.sum())
    per_class = [
        row[label] / sum(row) if sum(row) else None for label, row in enumerate(confusion.tolist())
    ]
    return {
        "accuracy": {
            "value": right / count,
            "interval_95": wilson_interval(right, count),
            "right": right,
            "count": count,
        },
        "class_accuracy": per_class,
        "confusion": confusion.tolist(),
    }


def closing_table(record: dict[str, Any], run_directory: Path) -> str:
    """Return what a run came to, in lines of at most 80 columns unless a path is longer."""
    rows = []
    for split, title in (("val", "validation"), ("test", "test")):
        for name, value in record["metrics"][split].items():
            if isinstance(value, dict):  # an accuracy from counts
                low, high = (100 * end for end in value["interval_95"])
                share = f"{100 * value['value']:7.2f} %   95 % interval {low:.2f} to {high:.2f} %"
                rows.append((f"{title} {name}", f"{share}   n = {value['count']:,}"))
            elif isinstance(value, float):
                unit = " nats" if name == "loss" else ""
                rows.append((f"{title} {name}", f"{value:9.4f}{unit}"))
    training = record.get("training_seconds", 0)
    rows += [
        ("parameters", f"{record['parameters']:>9,}"),
        ("time", f"{record['wall_seconds']:9.1f} s, of which training {training:.1f} s"),
        ("throughput", f"{record.get('images_per_second', 0):>9,.0f} images/s in training"),
        ("best checkpoint", str(run_directory / record["best_checkpoint"])),
        ("run directory", str(run_directory)),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    title = f"{record['experiment']}: best of {record['epochs']} epochs by {record['chosen_by']}"
    return "\n".join([title, "-" * len(title), *lines])
