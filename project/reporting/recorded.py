"""What a run recorded of the checkpoint that a report is about."""

from typing import Any

from project.reporting.subject import Subject


def is_best(subject: Subject) -> bool:
    """Return whether this is the checkpoint of its run that `run.json` tells the metrics of."""
    best = subject.record.get("best_checkpoint")
    if subject.run is None or best is None:
        return False
    return (subject.run / str(best)).resolve() == subject.checkpoint.resolve()


def recorded(subject: Subject, split: str, is_same_data: bool) -> dict[str, Any] | str:
    """Return what `run.json` holds of a split, measured with this checkpoint, or why nothing.

    Args:
        is_same_data: Whether the run's record names the hashes of the data that are open.
    """
    known: dict[str, Any] = subject.record.get("metrics", {}).get(split, {})
    if subject.run is None or "loss" not in known:
        return "There is no record of this checkpoint to compare with."
    if not is_best(subject):
        return "run.json is of another checkpoint of this run, so there is nothing to compare with."
    if not is_same_data:
        return "run.json is of other data than these, so there is nothing to compare with."
    return known
