"""The closing table of a run."""

from pathlib import Path
from typing import Any

from project.training.intervals import wilson_interval


def accuracy_with_interval(right: int, count: int) -> dict[str, Any]:
    """Return an accuracy, its 95 % Wilson interval and the counts behind them."""
    return {
        "value": right / count,
        "interval_95": wilson_interval(right, count),
        "right": right,
        "count": count,
    }


def closing_table(record: dict[str, Any], run_directory: Path) -> str:
    """Return what a run came to, in lines of at most 80 columns unless a path is longer."""
    rows = []
    for split, name in (("val", "validation"), ("test", "test")):
        metrics = record["metrics"].get(split, {})
        if accuracy := metrics.get("accuracy"):
            low, high = (100 * end for end in accuracy["interval_95"])
            rows.append(
                (
                    f"{name} accuracy",
                    f"{100 * accuracy['value']:7.2f} %   95 % interval {low:.2f} to {high:.2f} %"
                    f"   n = {accuracy['count']:,}",
                )
            )
        if "loss" in metrics:
            rows.append((f"{name} loss", f"{metrics['loss']:9.4f} nats"))
    rows += [
        ("parameters", f"{record['parameters']:>9,}"),
        (
            "time",
            f"{record['wall_seconds']:9.1f} s, of which training"
            f" {record.get('training_seconds', 0):.1f} s",
        ),
        ("throughput", f"{record.get('images_per_second', 0):>9,.0f} images/s in training"),
        ("best checkpoint", str(run_directory / record["best_checkpoint"])),
        ("run directory", str(run_directory)),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    title = f"{record['experiment']}: best of {record['epochs']} epochs by {record['chosen_by']}"
    return "\n".join([title, "-" * len(title), *lines])
