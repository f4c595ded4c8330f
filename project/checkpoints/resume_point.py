"""The point from which a run goes on bit for bit, and how Lightning's Trainer is set back to it.

No state of a random number generator is saved. What is drawn is a function of coordinates: the
order of (seed, epoch), augmentation of (seed, epoch, sample), everything in a step of (seed, epoch,
batch, rank). So a point needs the weights, the optimizer, the counters, and what an epoch has added
up so far.

It is taken at the start of a batch: validation, schedulers, early stopping and loggers of the
batch before are done, and no gradient is waiting. (At the end of a batch, where Lightning's
ModelCheckpoint saves, they are not.) `PRIVATE` names the fields of Lightning that this needs.
"""

import operator
import time
import warnings
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torchmetrics import Metric

from project.checkpoints.interruption import StopRequest, leave
from project.checkpoints.run_files import make_durable
from project.data.loader import SeededLoader, derived_seed, seed_generators
from project.distributed.processes import largest_of_all, of_all_processes

PRIVATE = (
    "fit_loop._restarting",
    "fit_loop.epoch_progress",
    "fit_loop.epoch_loop._restarting",
    "fit_loop.epoch_loop._batches_that_stepped",
    "fit_loop.epoch_loop._should_accumulate",
    "fit_loop.epoch_loop.restarted_on_train_batch_end",
    "fit_loop.epoch_loop.restarted_on_last",
    "fit_loop.epoch_loop.batch_progress",
    "fit_loop.epoch_loop.val_loop.batch_progress",
    "fit_loop.epoch_loop._results",
    "_logger_connector._callback_metrics",
    "_signal_connector.register_signal_handlers",
    "fit_loop.epoch_loop._broadcast_sigterm_tensor",
)
BATCH_START, TRAIN_END = "batch_start", "train_end"  # where a point is taken
SHARE_OF_TIME = 0.04  # that saving at the ends of epochs may take


def check_lightning(trainer: Trainer) -> None:
    """Stop at once where this version of Lightning lacks a field that exact resume needs.

    Raises:
        RuntimeError: With its name.
    """
    for path in PRIVATE:
        try:
            operator.attrgetter(path)(trainer)
        except AttributeError as error:
            raise RuntimeError(
                f"Lightning {lightning.__version__} has no Trainer.{path}, which exact resume "
                "needs (project/checkpoints/resume_point.py); install lightning 2.6.6"
            ) from error


class StepSeed(Callback):
    """Seeds every step by (seed, epoch, batch, rank), so that dropout needs no state."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        seed_generators(
            derived_seed("step", self.seed, epoch_of(trainer), batch_idx, trainer.global_rank)
        )


def epoch_of(trainer: Trainer) -> int:
    return trainer.fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]


class ResumePoint(Callback):
    """Saves `last.ckpt` and keeps the one before; sets the Trainer back to it in a resumed run.

    Saves before the first step, every `minutes`, at the end of an epoch where that takes no more
    than 4 % of the time, when the run is asked to stop, and at the end of the training. Must be
    the first of the callbacks, since those before it would act twice on the batch.

    Args:
        directory: Of the run.
        minutes: Between two checkpoints; 0 saves before every step.
        config: The complete configuration as YAML; goes into every checkpoint.
        stop: Asked before every step.
        is_extended: Whether a resumed run was made longer; if not, one whose training had ended
            is only measured.
        same_batches: Whether a resumed run sees the batches that it would have seen; if not,
            what the epoch had added up is dropped.
    """

    def __init__(
        self,
        directory: Path,
        minutes: float,
        config: str,
        stop: StopRequest,
        is_extended: bool = False,
        same_batches: bool = True,
    ) -> None:
        self.directory = directory
        self.seconds = 60 * minutes
        self.config = config
        self.stop = stop
        self.is_extended = is_extended
        self.same_batches = same_batches
        self.saving_at: str | None = None  # while a point is being saved
        self.restored: dict[str, Any] | None = None
        self.unfinished_averages: dict[str, Any] = {}
        self.validated: dict[str, Any] | None = None  # counter of validation batches, as saved
        self.saved_at = -float("inf")  # seconds of the monotonic clock
        self.saved_step: int | None = None
        self.save_seconds = 0.0

    @property
    def path(self) -> Path:
        return self.directory / "checkpoints" / "last.ckpt"

    def kept(self) -> str:
        """Return, for a message, which checkpoint there is."""
        return f"{self.path} is kept, of step {self.saved_step}"

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.validated is not None:  # Lightning has counted a validation that did not run
            counter = trainer.fit_loop.epoch_loop.val_loop.batch_progress.total
            counter.load_state_dict(self.validated)
            self.validated = None
        if batch_idx % trainer.accumulate_grad_batches:
            return  # gradients are waiting, and are not saved
        is_due = int(self.is_due(is_epoch_start=batch_idx == 0))
        signum, is_due = largest_of_all(trainer, [self.stop.signum, is_due])
        if is_due or signum:
            self.save(trainer, BATCH_START)
        if signum:
            leave(trainer, signum)

    def is_due(self, is_epoch_start: bool) -> bool:
        waited = time.monotonic() - self.saved_at
        return waited >= self.seconds or (
            is_epoch_start and SHARE_OF_TIME * waited >= self.save_seconds
        )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.save(trainer, TRAIN_END)

    def save(self, trainer: Trainer, at: str) -> None:
        started = time.monotonic()
        self.saving_at = at
        try:
            trainer.save_checkpoint(self.path)
        finally:
            self.saving_at = None
        self.saved_step = trainer.global_step
        self.saved_at = time.monotonic()
        self.save_seconds = self.saved_at - started

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["config"] = self.config
        if self.saving_at is None:
            return  # the best one, or a user's own
        data: Any = getattr(trainer, "datamodule", None)
        checkpoint["resume"] = {
            "at": self.saving_at,
            "world_size": trainer.world_size,
            "data": data.describe()["sha256"] if hasattr(data, "describe") else None,
            "accumulate_grad_batches": trainer.accumulate_grad_batches,
            "callback_metrics": dict(trainer.callback_metrics),  # a plateau may read an old one
            "epoch_so_far": of_all_processes(trainer, self.epoch_so_far(trainer, pl_module)),
            "files": make_durable(trainer, self.directory) if trainer.is_global_zero else {},
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.restored = checkpoint.get("resume")
        if self.restored is not None and self.restored["at"] == TRAIN_END:
            trainer.should_stop = not self.is_extended  # it may have stopped early

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.restored is None:
            return
        restored, self.restored = self.restored, None
        if isinstance(trainer.train_dataloader, SeededLoader):  # of others it is true
            warnings.filterwarnings(
                "ignore", message="You're resuming from a checkpoint that ended"
            )
        set_back_counters(trainer, restored["at"])
        if restored["at"] == BATCH_START:
            self.validated = trainer.fit_loop.epoch_loop.val_loop.batch_progress.total.state_dict()
        if self.same_batches:
            trainer.accumulate_grad_batches = restored["accumulate_grad_batches"]
        device = pl_module.device
        metrics = apply_to_collection(restored["callback_metrics"], Tensor, Tensor.to, device)
        trainer._logger_connector._callback_metrics.update(metrics)
        if restored["at"] == BATCH_START and self.same_batches:
            mine = restored["epoch_so_far"][trainer.global_rank]
            mine = apply_to_collection(mine, Tensor, Tensor.to, device)
            self.unfinished_averages = mine["averages"]
            restore_epoch(pl_module, mine)
        elif hasattr(pl_module, "load_epoch_state"):
            pl_module.load_epoch_state({})  # type: ignore[operator]
        self.saved_step = trainer.global_step
        if self.same_batches and not self.is_extended:  # else saved at once, as what it is now
            self.saved_at = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if not self.unfinished_averages:
            return
        results = trainer.fit_loop.epoch_loop._results
        for key in self.unfinished_averages.keys() & results.keys():
            add_to_average(results[key], self.unfinished_averages.pop(key))

    def epoch_so_far(self, trainer: Trainer, module: LightningModule) -> dict[str, Any]:
        """Return what this epoch has added up on this process, on the CPU.

        Of a task with `epoch_state`, what that returns; the state of each torchmetrics metric; and
        the averages that `self.log(..., on_epoch=True)` keeps.
        """
        averages = dict(self.unfinished_averages)  # of before a resume, and not logged again yet
        found: dict[str, Any] = {"task": {}, "metrics": {}, "averages": averages}
        if hasattr(module, "epoch_state"):
            found["task"] = module.epoch_state()  # type: ignore[operator]
        for name, part in module.named_modules():
            if isinstance(part, Metric):
                found["metrics"][name] = {"updates": part._update_count, **part.metric_state}
        if trainer.fit_loop.epoch_loop.batch_idx > 0:
            for key, result in trainer.fit_loop.epoch_loop._results.items():
                if result.is_tensor and result.meta.on_epoch and result.update_called:
                    averages[key] = dict(result.metric_state)
        return apply_to_collection(found, Tensor, lambda t: t.detach().cpu().clone())


def set_back_counters(trainer: Trainer, at: str) -> None:
    """Undo what saving and loading did to Lightning's counters (2.6.6), before the first batch."""
    fit, epoch = trainer.fit_loop, trainer.fit_loop.epoch_loop
    if at == TRAIN_END:  # another epoch begins, as after any other
        fit._restarting = epoch._restarting = False
        return
    # The batch that was counted as ready when the point was taken has not been run.
    epoch.batch_progress.total.ready = epoch.batch_progress.total.completed
    if not epoch._should_accumulate() and (
        epoch.restarted_on_train_batch_end or not epoch.restarted_on_last
    ):
        epoch._batches_that_stepped -= 1  # `reset` is about to add it a second time
    fit._restarting = False  # else the epoch would end without its step of ReduceLROnPlateau


def restore_epoch(module: LightningModule, so_far: dict[str, Any]) -> None:
    """Give a task and its metrics back what `epoch_so_far` returned."""
    if hasattr(module, "load_epoch_state"):
        module.load_epoch_state(so_far["task"])  # type: ignore[operator]
    metrics = {name: m for name, m in module.named_modules() if isinstance(m, Metric)}
    for name, state in so_far["metrics"].items():
        metrics[name]._update_count = state["updates"]
        for field in metrics[name].metric_state:
            setattr(metrics[name], field, state[field])


def add_to_average(result: Any, before: dict[str, Tensor]) -> None:
    """Join an average of `self.log` that begins anew with what it was before the run stopped."""
    if result.meta.is_max_reduction or result.meta.is_min_reduction:
        result.value = result.meta.reduce_fx(result.value, before["value"])
        return
    result.value = before["value"] + result.value
    if result.meta.is_mean_reduction:
        result.cumulated_batch_size = before["cumulated_batch_size"] + result.cumulated_batch_size
