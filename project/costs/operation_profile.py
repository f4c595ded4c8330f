"""Where the time of a training step goes, operation by operation."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.profiler import profile


class OperationProfile(Callback):
    """Records a few training steps with torch's profiler, on the first process.

    Writes into the run directory `operations.txt`, the most expensive ones first, and
    `operations.json`, every one in its place in time, for https://ui.perfetto.dev. (Lightning's
    own PyTorchProfiler, 2.6.6, does not know the run's directory before the training ends.)

    Args:
        after: Steps that are left out, since they set up what later ones use.
        steps: That are recorded, at least 1.
        rows: Of the table.
    """

    def __init__(self, after: int = 10, steps: int = 10, rows: int = 30) -> None:
        self.after, self.steps, self.rows = after, steps, rows
        self.profiler: profile | None = None
        self.batches = 0  # since the start

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if self.batches == self.after and trainer.is_global_zero:
            self.profiler = profile()
            self.profiler.start()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.batches += 1
        if self.batches == self.after + self.steps:
            self.write(Path(trainer.default_root_dir))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.write(Path(trainer.default_root_dir))  # the run was shorter than that

    def write(self, directory: Path) -> None:
        if self.profiler is None:
            return
        self.profiler.stop()
        self.profiler.export_chrome_trace(str(directory / "operations.json"))
        found = self.profiler.key_averages()
        on_gpu = any(entry.device_time_total for entry in found)
        order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
        table = found.table(sort_by=order, row_limit=self.rows, max_name_column_width=60)
        (directory / "operations.txt").write_text(table, encoding="utf-8")
        self.profiler = None
