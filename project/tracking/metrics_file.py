"""The files of a run's own logger: `metrics.csv`, `samples.txt` and `figures/`."""

import csv
import io
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from project.tracking.pictures import Picture, png
from project.whole_files import replace_bytes, replace_text

FLUSH_ROWS = 100


class MetricsFile(Logger):
    """Writes `metrics.csv`, a row for each step that logged something, `samples.txt`, `figures/`.

    Goes on with the files that are there. New columns rewrite `metrics.csv`, whole or not at all.

    Args:
        directory: Of the run.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory
        self.path = directory / "metrics.csv"
        self.waiting: list[dict[str, Any]] = []

    @cached_property
    def columns(self) -> list[str]:
        """Of the file; read at the first use, since a resumed run cuts the file back before."""
        return read_table(self.path)[0]

    @cached_property
    def num_rows(self) -> int:
        """In the file; read at the first use."""
        return len(read_table(self.path)[1])

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def log_dir(self) -> str:
        return str(self.directory)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: `config.yaml` has them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        row = {name: v.item() if isinstance(v, Tensor) else v for name, v in metrics.items()}
        self.waiting.append(row | {"step": step})
        if len(self.waiting) >= FLUSH_ROWS:
            self.save()

    @rank_zero_only
    def log_text(self, text: str, step: int) -> None:
        """Append a text to `samples.txt`."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "samples.txt").open("a", encoding="utf-8") as file:
            file.write(f"--- step {step}\n{text}\n")

    @rank_zero_only
    def log_picture(self, name: str, picture: Picture) -> None:
        """Write `figures/<name>.png`."""
        folder = self.directory / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        replace_bytes(folder / f"{name}.png", png(picture))

    @rank_zero_only
    def save(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        columns = sorted(set(self.columns).union(*self.waiting))
        num_rows = self.num_rows + len(self.waiting)
        if columns != self.columns:
            _, rows = read_table(self.path)
            write_table(self.path, columns, rows + self.waiting)
        elif self.waiting:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, columns, lineterminator="\n").writerows(self.waiting)
        self.columns, self.num_rows, self.waiting = columns, num_rows, []

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()


def read_table(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the columns and rows of a CSV file; none where there is no file."""
    if not path.is_file():
        return [], []
    with path.open(newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        return list(table.fieldnames or []), list(table)


def write_table(path: Path, columns: list[str], rows: list[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    replace_text(path, text.getvalue())
