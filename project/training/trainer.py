"""The Trainer of a run: what Lightning brings, with our checkpoints, loggers and displays."""

from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, ProgressBar
from lightning.pytorch.loggers import Logger, WandbLogger
from torch import nn

from project.checkpoints.checkpoint_file import DurableCheckpointIO
from project.checkpoints.resume_point import check_lightning
from project.configuration import ProjectCLI, Selection
from project.costs.throughput import Stopwatch, Throughput
from project.distributed.processes import SharedData, as_launched, check_launch
from project.messages import warn
from project.tracking.dashboards import Events
from project.tracking.metrics_file import MetricsFile
from project.tracking.weights_and_biases import start, wandb_logger
from project.training.progress import progress_display


class CompiledNetwork(Callback):
    """Compiles the network in place: the names in checkpoints stay as they are."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        network = getattr(pl_module, "network", None)
        if stage == "fit" and isinstance(network, nn.Module):
            network.compile()
        elif stage == "fit" and trainer.is_global_zero:
            warn(f"--speed.compile does nothing: {type(pl_module).__name__} has no `network`")


class ValidateAtLastStep(Callback):
    """Makes a run that is limited in steps, or validated by steps, end with a validation."""

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        is_last_epoch = trainer.current_epoch + 1 == trainer.max_epochs
        by_steps = trainer.check_val_every_n_epoch is None
        ends = by_steps and is_last_epoch and trainer.is_last_batch
        if ends or trainer.global_step == trainer.max_steps:
            trainer.should_stop = True  # Lightning validates before an early stop


class BestCheckpoint(ModelCheckpoint):
    """Keeps `best.ckpt`, and knows the best score after the run's directory was moved."""

    def __init__(self, directory: Path, best: Selection) -> None:
        super().__init__(
            directory / "checkpoints",
            filename="best",
            monitor=best.monitor,
            mode=best.mode,
            enable_version_counter=False,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        before, now = str(state_dict["dirpath"]), str(self.dirpath)

        def moved(value: Any) -> Any:
            if isinstance(value, dict):
                return {moved(key): item for key, item in value.items()}
            return value.replace(before, now, 1) if isinstance(value, str) else value

        super().load_state_dict({name: moved(value) for name, value in state_dict.items()})
        self.current_score = state_dict["current_score"]  # which Lightning saves and leaves


def build_trainer(
    cli: ProjectCLI, ours: list[Callback], directory: Path, throughput: Throughput
) -> Trainer:
    """Return the Trainer of a run.

    Args:
        ours: Callbacks that come before the user's.
        directory: Of the run.
        throughput: Takes the profiler's time, unless the settings name another profiler.

    Raises:
        UsageError: If it is for another number of processes than were started.
    """
    best, speed = cli.config.best, cli.config.speed
    arguments = as_launched(dict(cli.config_init.trainer))
    torch.set_float32_matmul_precision(speed.matmul)
    callbacks = [*ours, throughput, SharedData(), *as_list(arguments.pop("callbacks"))]
    if speed.compile:
        callbacks.append(CompiledNetwork())
    if arguments["profiler"] is None:
        arguments["profiler"] = throughput.stopwatch = Stopwatch()
    if best.patience is not None:
        callbacks.append(EarlyStopping(best.monitor, mode=best.mode, patience=best.patience))
    if arguments["enable_progress_bar"] is not False:
        callbacks.append(display := progress_display(throughput.shown))
        arguments["enable_progress_bar"] = isinstance(display, ProgressBar)
    arguments["enable_model_summary"] = bool(arguments["enable_model_summary"])
    arguments["plugins"] = [*as_list(arguments["plugins"]), DurableCheckpointIO()]
    arguments["default_root_dir"] = str(directory)
    loggers = loggers_of(arguments.pop("logger"), cli.config.wandb, directory)
    trainer = Trainer(**arguments, callbacks=callbacks, logger=loggers)
    check_lightning(trainer)
    # `StopRequest` takes the signals. Lightning's handlers wait for other processes, which hangs.
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    # Nor is each step to begin with a broadcast of what they saw.
    epoch = trainer.fit_loop.epoch_loop
    epoch._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
    check_launch(trainer)
    return trainer


def loggers_of(chosen: Any, wandb: Namespace, directory: Path) -> list[Logger]:
    """Return `metrics.csv`, the loggers that were chosen, TensorBoard by default, and W&B."""
    if chosen is None or chosen is True:
        chosen = Events(directory)
    loggers: list[Logger] = [MetricsFile(directory), *as_list(chosen or None)]
    return [*loggers, *as_list(wandb_logger(wandb, directory))]


def start_wandb(trainer: Trainer, directory: Path) -> None:
    """Start W&B where it is a logger, and go on without it where it cannot be started."""
    trainer.loggers = [
        logger
        for logger in trainer.loggers
        if not isinstance(logger, WandbLogger) or start(logger, directory)
    ]


def as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
