"""What a run shows while it goes on: a bar for a person, a line a validation for a log file."""

import sys
import time

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only

REFRESH_STEPS = 20  # a redraw costs as much as a small training step


def progress_display() -> Callback:
    """Return a bar for a terminal or a notebook, `ValidationLines` when output is redirected."""
    if "ipykernel" in sys.modules:  # Rich shows nothing there without ipywidgets
        return TQDMProgressBar(refresh_rate=REFRESH_STEPS)
    if sys.stdout.isatty():
        return RichProgressBar(refresh_rate=REFRESH_STEPS)
    return ValidationLines()


class ValidationLines(Callback):
    """Prints one line a validation, at once: how far, seconds since the last, the bar's metrics."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.last = time.perf_counter()

    @rank_zero_only
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        now = time.perf_counter()
        seconds, self.last = now - self.last, now
        metrics = "  ".join(
            f"{name} {value:.4f}"
            for name, value in sorted(trainer.progress_bar_metrics.items())
            if isinstance(value, float)
        )
        if trainer.max_epochs in (None, -1):
            place = f"step {trainer.global_step:>6}/{trainer.max_steps}"
        else:
            place = f"epoch {trainer.current_epoch + 1:>3}/{trainer.max_epochs}"
        print(f"{place}  {seconds:6.1f} s  {metrics}", flush=True)
