"""Files of a run that grow while it goes on, and how a resumed run cuts them back.

A run that was killed may have logged steps after its last checkpoint, which it will take again.
Each checkpoint holds how far the files were (`make_durable`); `cut_back` returns them there.
"""

import os
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from project.tracking.metrics_file import MetricsFile, read_table, write_table

EVENTS = "events.out.tfevents.*"


def make_durable(trainer: Trainer, directory: Path) -> dict[str, Any]:
    """Make what was logged durable, and return how far each file is; on the first process."""
    found: dict[str, Any] = {"columns": [], "rows": 0}
    for logger in trainer.loggers:
        if isinstance(logger, MetricsFile):
            logger.save()
            found |= {"columns": logger.columns, "rows": logger.num_rows}
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.flush()
    for path in (directory / "metrics.csv", *growing_files(directory)):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
    found["bytes"] = {path.name: path.stat().st_size for path in growing_files(directory)}
    return found


def shorter_files(directory: Path, reached: dict[str, Any]) -> list[str]:
    """Return the names of files that are shorter than they were at a checkpoint."""
    _, rows = read_table(directory / "metrics.csv")
    found = ["metrics.csv"] if len(rows) < reached.get("rows", 0) else []
    for name, size in reached.get("bytes", {}).items():
        path = directory / name
        if not path.is_file() or path.stat().st_size < size:
            found.append(name)
    return found


def cut_back(directory: Path, reached: dict[str, Any]) -> None:
    """Drop from the files of a run what came after a checkpoint; without one, everything.

    Args:
        reached: What `make_durable` returned at the checkpoint.
    """
    columns, rows = read_table(directory / "metrics.csv")
    count, kept_columns = reached.get("rows", 0), reached.get("columns", [])
    if kept_columns:
        kept = [{name: row[name] for name in kept_columns} for row in rows[:count]]
        write_table(directory / "metrics.csv", kept_columns, kept)
    elif columns:
        (directory / "metrics.csv").unlink()
    sizes = reached.get("bytes", {})
    for path in growing_files(directory):
        if path.name in sizes:
            os.truncate(path, sizes[path.name])
        else:
            path.unlink()


def growing_files(directory: Path) -> list[Path]:
    return [p for p in (directory / "samples.txt", *directory.glob(EVENTS)) if p.is_file()]
