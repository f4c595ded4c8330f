"""What a run shows while it goes on: a bar for a person, a line a validation for a log file."""

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only

REFRESH_STEPS = 20  # a redraw costs as much as a small training step


def progress_display(speed: Callable[[], str] = lambda: "") -> Callback:
    """Return a bar for a terminal or a notebook, `ValidationLines` when output is redirected.

    That is also where a notebook runs the command by `!`: such output calls itself a terminal, but
    its cursor does not move up, and each redraw of a bar would be a line.

    Args:
        speed: Says how fast the training is; nothing as long as that is not known.
    """
    # Of a running kernel; Rich shows nothing there without ipywidgets.
    if "ipykernel.kernelapp" in sys.modules:
        return with_speed(TQDMProgressBar(refresh_rate=REFRESH_STEPS), speed)
    is_below_a_kernel = "JPY_PARENT_PID" in os.environ  # set by Jupyter for all it starts
    if sys.stdout.isatty() and not is_below_a_kernel:
        return with_speed(RichProgressBar(refresh_rate=REFRESH_STEPS), speed)
    return ValidationLines(speed)


def with_speed(bar: ProgressBar, speed: Callable[[], str]) -> ProgressBar:
    """Let a bar show the speed beside its metrics."""
    metrics = bar.get_metrics

    def get_metrics(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        return metrics(trainer, pl_module) | ({"speed": text} if (text := speed()) else {})

    bar.get_metrics = get_metrics  # type: ignore[method-assign]
    return bar


class ValidationLines(Callback):
    """Prints one line a validation, at once: how far, seconds since the last, metrics, speed."""

    def __init__(self, speed: Callable[[], str] = lambda: "") -> None:
        self.speed = speed

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
        print(f"{place}  {seconds:6.1f} s  {metrics}  {self.speed()}".rstrip(), flush=True)
