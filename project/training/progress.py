"""What a run shows while it goes on: a bar for a person, a line an epoch for a log file."""

import sys
import time

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from lightning.pytorch.utilities import rank_zero_only

REFRESH_STEPS = 20  # a redraw costs as much as a small training step


def progress_display() -> Callback:
    """Return a bar for a terminal or a notebook, and `EpochLines` when output is redirected."""
    if "ipykernel" in sys.modules:  # Rich shows nothing there without ipywidgets
        return TQDMProgressBar(refresh_rate=REFRESH_STEPS)
    if sys.stdout.isatty():
        return RichProgressBar(refresh_rate=REFRESH_STEPS)
    return EpochLines()


class EpochLines(Callback):
    """Prints one line an epoch, at once: epoch, seconds, and every metric of the bar."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started = time.perf_counter()

    @rank_zero_only
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seconds = time.perf_counter() - self.started
        metrics = "  ".join(
            f"{name} {value:.4f}"
            for name, value in sorted(trainer.progress_bar_metrics.items())
            if isinstance(value, float)
        )
        epoch = f"epoch {trainer.current_epoch + 1:>3}/{trainer.max_epochs}"
        print(f"{epoch}  {seconds:6.1f} s  {metrics}", flush=True)
