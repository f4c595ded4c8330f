"""What a run and its checkpoint recorded: the training, its data, and how well it went."""

from typing import Any

import yaml

from project.inference.evaluation import same_examples
from project.reporting.subject import Subject


def config_text(subject: Subject) -> str:
    """Return the configuration in the checkpoint, or beside it in the run."""
    path = subject.run / "config.yaml" if subject.run else None
    if path is not None and path.is_file():
        return path.read_text("utf-8")
    return str(subject.content.get("config", ""))


def config_of(subject: Subject) -> dict[str, Any]:
    """Return the configuration of the run, nested; empty where none is known."""
    return yaml.safe_load(config_text(subject)) or {}


def epochs_done(subject: Subject) -> int:
    """Return the epochs that were finished, or begun, when the checkpoint was written."""
    loops = subject.content.get("loops") or {}
    progress = loops.get("fit_loop", {}).get("epoch_progress", {}).get("current", {})
    return int(progress.get("started", subject.content.get("epoch", -1) + 1))


def trained_on(subject: Subject) -> dict[str, Any]:
    """Return what is recorded of the training data, in the run or else in the checkpoint."""
    return subject.record.get("data") or saved_data(subject)


def saved_data(subject: Subject) -> dict[str, Any]:
    """Return what the checkpoint holds of its data."""
    return subject.content.get(type(subject.data).__qualname__) or {}


def data_name(subject: Subject) -> str:
    """Return the set or corpus that the checkpoint was trained on, whatever is open now."""
    if subject.data is None:
        return "data that the checkpoint does not name"
    known = trained_on(subject)
    return str(known.get("dataset") or known.get("corpus") or opened_name(subject))


def opened_name(subject: Subject) -> str:
    """Return the class of the set or corpus that is open, such as `MNIST`."""
    if subject.data is None:
        return "unknown data"
    data = subject.data
    opened = getattr(data, "dataset", None) or getattr(data, "corpus", None) or data
    return type(opened).__name__


def is_own_data(subject: Subject) -> bool | None:
    """Return whether the measured split is that of the training; None if that is not known."""
    opened = subject.images or subject.text
    if opened is None:
        return None
    return same_examples(saved_data(subject), subject.data.describe(), opened.measured_split)


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
