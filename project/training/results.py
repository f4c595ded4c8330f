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


UNITS = {"loss": "nats", "loss_random_windows": "nats", "bits_per_byte": "bits"}
NAMES = {"loss_random_windows": "loss (nanoGPT)", "bits_per_byte": "bits/byte"}  # in the table


def closing_table(record: dict[str, Any], run_directory: Path) -> str:
    """Return what a run came to, in lines of at most 80 columns unless a path is longer."""
    rows = []
    for split, title in (("val", "validation"), ("test", "test")):
        for name, value in record["metrics"].get(split, {}).items():
            if isinstance(value, dict | float):
                rows.append((f"{title} {NAMES.get(name, name)}", figure(name, value)))
    if "test" not in record["metrics"]:
        rows.append(("test", "none: the data have no test split"))
    training = record.get("training_seconds", 0)
    speeds = [key for key in record if key.endswith("_per_second")]
    rows += [
        ("parameters", parameters_of(record)),
        ("time", f"{record['wall_seconds']:9.1f} s, of which training {training:.1f} s"),
        *(
            ("throughput", f"{record[key]:>9,.0f} {key.removesuffix('_per_second')}/s in training")
            for key in speeds
        ),
        ("best checkpoint", str(run_directory / record["best_checkpoint"])),
        ("run directory", str(run_directory)),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    length = f"{record['epochs']} epochs ({record['steps']:,} steps)"
    title = f"{record['experiment']}: best of {length} by {record['chosen_by']}"
    return "\n".join([title, "-" * len(title), *lines])


def parameters_of(record: dict[str, Any]) -> str:
    trained = record.get("trainable_parameters", record["parameters"])
    frozen = f" of which {trained:,} were trained" if trained < record["parameters"] else ""
    return f"{record['parameters']:>9,}{frozen}"


def figure(name: str, value: dict[str, Any] | float) -> str:
    """Return a number with its unit and, where there is one, its interval."""
    number = value["value"] if isinstance(value, dict) else value
    is_share = name == "accuracy"
    text = f"{100 * number:7.2f} %" if is_share else f"{number:9.4f} {UNITS.get(name, '')}".rstrip()
    if isinstance(value, dict) and value["interval_95"]:
        scale, digits, unit = (100, 2, " %") if is_share else (1, 4, "")
        low, high = (f"{scale * end:.{digits}f}" for end in value["interval_95"])
        text += f"   95 % interval {low} to {high}{unit}"
        text += f"   n = {value['count']:,}" if is_share else ""  # of losses, n is in `run.json`
    return text
