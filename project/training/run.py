"""One run from its configuration to its closing table: fit, validate, test, record."""

import errno
import os
import shutil
import warnings
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.loggers import WandbLogger

from project.checkpoints.checkpoint_file import DurableCheckpointIO, remove
from project.checkpoints.interruption import FiniteLoss, StopBeforeTesting, Stopped, StopRequest
from project.checkpoints.resume import StoppedRun, sole_user
from project.checkpoints.resume_point import ResumePoint, StepSeed
from project.checkpoints.run_files import cut_back
from project.comparison.outcomes import save_outcomes
from project.configuration import ProjectCLI, complete_config
from project.costs.energy import EnergyMeter
from project.costs.throughput import Throughput
from project.distributed.processes import process_rank, shared_threads, step_of_processes
from project.distributed.sharded_strategy import ShardedStrategy, network_of
from project.distributed.slurm import job, requeue_after
from project.hardware import keep_freed_memory, look_for_no_gpu
from project.messages import RunError, RunPruned, UsageError, warn
from project.optimization.initial_weights import prepare_network
from project.provenance import code_hash, provenance, typed_command, write_patch
from project.tasks.image_classification import ImageClassification
from project.tasks.language_modeling import LanguageModeling
from project.tracking.dashboards import (
    log_configuration,
    log_outcomes,
    log_results,
    spared,
)
from project.training.closing_table import closing_table
from project.training.run_directory import RunRecord, create_run_directory
from project.training.trainer import (
    BestCheckpoint,
    ValidateAtLastStep,
    build_trainer,
    start_wandb,
)
from project.whole_files import replace_text

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)


def run(
    cli: ProjectCLI,
    arguments: list[str],
    stopped: StoppedRun | None = None,
    *,
    callbacks: Sequence[Callback] = (),
    measure_test: bool = True,
) -> dict[str, Any]:
    """Fit, validate and test what the configuration describes; return the run's record.

    Args:
        stopped: The run to go on with; a new one by default.
        callbacks: More of them, such as that of a sweep, which may raise `RunPruned`.
        measure_test: False leaves the test split alone, for what is chosen among.
    """
    keep_freed_memory()
    look_for_no_gpu()
    config, text = cli.config, complete_config(cli)
    origin = origin_of(arguments, text)
    directory, record = place_of(cli, origin, stopped)
    stop = StopRequest()
    keeper = RunRecord(
        directory,
        record,
        Throughput(device_peak=config.speed.device_peak),
        EnergyMeter(config.energy),
    )
    point = ResumePoint(
        directory,
        config.checkpoint_minutes,
        text,
        stop,
        is_extended=stopped is not None and stopped.is_extended,
        same_batches=stopped is None or not stopped.is_changed,
    )
    best = BestCheckpoint(directory, config.best)
    ours = [
        point,
        StepSeed(int(config.seed_everything)),
        FiniteLoss(point.kept),
        ValidateAtLastStep(),
        keeper,
        best,
        keeper.energy,
        StopBeforeTesting(stop),
        *callbacks,
    ]
    trainer = trainer_of(cli, ours, keeper, stopped)
    if stopped is not None and not is_as_wide(trainer, stopped):
        point.same_batches = False
    quieten_logging(cli.model)
    leave_running = partial(keeper.update, status="interrupted", exit_code=130, error="SIGINT")
    lock = sole_user(directory) if stopped is None else nullcontext()  # `resume` has it
    threads = shared_threads(trainer, config.speed.threads)
    with lock, stop.listening(at_once=leave_running), threads:
        try:
            begin(cli, text, trainer, keeper, origin, stopped)
            found = fit_and_measure(cli, trainer, best, stopped, measure_test)
            log_results(trainer.loggers, text, found["metrics"], found["steps"])
            keeper.update(status="finished", exit_code=0, **found)
            finish_wandb(trainer, 0)
        except BaseException as error:
            end_badly(error, keeper, trainer)
            raise
    if trainer.is_global_zero:
        print(closing_table(record, directory, measure_test))
    return record


def origin_of(arguments: list[str], config: str) -> dict[str, Any]:
    """Return what a record says of a start: what was typed, the code, the machine, the job."""
    slurm = job()
    return {
        "command": typed_command("train", arguments),
        **provenance(),
        "code_sha256": code_hash(config),
        **({"slurm": slurm} if slurm else {}),
    }


def place_of(
    cli: ProjectCLI, origin: dict[str, Any], stopped: StoppedRun | None
) -> tuple[Path, dict[str, Any]]:
    """Prepare the network, and return the directory of the run and the record to go on with.

    Raises:
        UsageError: If the network cannot be prepared, or no directory be created.
    """
    config = cli.config
    is_restored = stopped is not None and stopped.checkpoint is not None
    begun_with = prepare_network(cli, is_restored)
    if stopped is not None:
        return stopped.directory, stopped.record | begun_with
    directory = create_run_directory(Path(config.runs_dir), config.experiment)
    record = {"experiment": config.experiment, "seed": config.seed_everything, **origin}
    return directory, record | begun_with


def trainer_of(
    cli: ProjectCLI, ours: list[Callback], keeper: RunRecord, stopped: StoppedRun | None
) -> Trainer:
    """Return the Trainer of a run, or leave nothing of a new one.

    Raises:
        UsageError: If there can be none, such as on a GPU that is not there.
    """
    directory = keeper.path.parent
    try:
        trainer = build_trainer(cli, ours, directory, keeper.throughput)
        if isinstance(trainer.strategy, ShardedStrategy):
            network_of(cli.model)  # or it cannot be shared out
    except Exception as error:  # nothing has been run
        if process_rank() == 0 and stopped is None:
            shutil.rmtree(directory)
        wanted = cli.config.trainer.accelerator
        hint = f" (--trainer.accelerator {wanted}; auto takes what is there)"
        raise UsageError(f"{error}{'' if wanted in ('auto', 'cpu') else hint}") from error
    return trainer


def quieten_logging(task: LightningModule) -> None:
    """Drop the advice on `sync_dist`, for our two tasks: they log what all processes have."""
    if isinstance(task, ImageClassification | LanguageModeling):
        warnings.filterwarnings(
            "ignore", message=".*recommended to use `self.log.*sync_dist=True.*"
        )


def begin(
    cli: ProjectCLI,
    text: str,
    trainer: Trainer,
    keeper: RunRecord,
    origin: dict[str, Any],
    stopped: StoppedRun | None,
) -> None:
    """Write and show what a run is, or set the files of one that goes on back.

    Args:
        text: The complete configuration, YAML.
    """
    directory = keeper.path.parent
    if process_rank() == 0:
        write_beginning(text, keeper, origin, stopped)
    announce(trainer, cli.model, cli.datamodule, directory)
    warn_of_threads(keeper.record)
    start_wandb(trainer, directory)
    if stopped is None or stopped.checkpoint is None:
        log_configuration(trainer.loggers[1:], text, origin)
    if stopped is not None and trainer.is_global_zero:
        print(f"going on from step {stopped.global_step:,}", flush=True)


def write_beginning(
    text: str, keeper: RunRecord, origin: dict[str, Any], stopped: StoppedRun | None
) -> None:
    """Write what a run is, or set the files of one that goes on back to its checkpoint.

    In an order that leaves a run to resume, or none, wherever it is killed.
    """
    directory, record = keeper.path.parent, keeper.record
    patch = "code.patch"
    if stopped is not None:
        for key in ("error", "exit_code"):
            record.pop(key, None)
        resumed = record.setdefault("resumed", [])
        resumed.append({**origin, "from_step": stopped.global_step})
        patch = f"code.resumed-{len(resumed)}.patch"
        keeper.update(status="running")  # before what it had measured is cut off
        cut_back(directory, stopped.point.get("files", {}))
        for leftover in (directory / "checkpoints").glob(".*.tmp"):
            remove(leftover)
        if stopped.checkpoint is not None and stopped.checkpoint.name == "previous.ckpt":
            # Damaged: the next checkpoint would put it in the place of the good one.
            remove(directory / "checkpoints" / "last.ckpt")
    replace_text(directory / "config.yaml", text)
    keeper.update(status="running")
    write_patch(directory, patch)


def warn_of_threads(record: dict[str, Any]) -> None:
    """Say so where a run that goes on has other threads than it had."""
    had, has = record["hardware"].get("torch_threads"), torch.get_num_threads()
    if had not in (None, has) and process_rank() == 0:
        warn(f"torch_threads was {had} and is {has}: the last bits of numbers may differ")


def is_as_wide(trainer: Trainer, stopped: StoppedRun) -> bool:
    """Return whether a run has as many processes as it had.

    Raises:
        UsageError: If it has not, and is not forced.
    """
    had = stopped.point.get("world_size", trainer.world_size)
    if trainer.world_size == had:
        return True
    text = f"the run had {had} processes and now has {trainer.world_size}"
    if not stopped.is_forced:
        raise UsageError(
            f"{text}, so its batches would be others; start it as before, or set --trainer.devices "
            f"and --trainer.num_nodes to {had} in all, or add --force"
        )
    if process_rank() == 0:
        warn(f"{text}: from here on it is another run")
    return False


def end_badly(error: BaseException, keeper: RunRecord, trainer: Trainer) -> None:
    """Tell run.json, W&B and the user how the run ended, and name a disk that refuses.

    Raises:
        RunError: In place of an error of the disk.
    """
    code = exit_code_after(error)
    status = "interrupted" if code in (130, 143) else "failed"
    if isinstance(error, RunPruned):
        status, code = "pruned", 0
    with suppress(OSError):  # the disk may be full
        keeper.update(status=status, exit_code=code, error=f"{type(error).__name__}: {error}")
    requeue_after(error)  # first: W&B may wait for its network
    finish_wandb(trainer, code)
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        raise RunError(
            f"{error.filename or keeper.path.parent} cannot be written: "
            f"{os.strerror(error.errno)}; make room or give write permission, then go on with "
            f"--resume {keeper.path.parent}"
        ) from error
    if isinstance(error, SystemExit) and trainer.is_global_zero:
        print(f"stopped; go on with: python -m project.train --resume {keeper.path.parent}")
    if isinstance(error, Stopped):
        trainer.strategy.barrier()  # srun may kill what is left as soon as one has ended


def exit_code_after(error: BaseException) -> int:
    """Return 130 for Ctrl-C, what a SystemExit says (by a signal 130 or 143), else 1."""
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
        return error.code or 0
    return 1


def finish_wandb(trainer: Trainer, exit_code: int) -> None:
    if any(isinstance(logger, WandbLogger) for logger in trainer.loggers):
        import wandb

        with spared("the end of the run in W&B"):
            wandb.finish(exit_code=exit_code)


def fit_and_measure(
    cli: ProjectCLI,
    trainer: Trainer,
    best: BestCheckpoint,
    stopped: StoppedRun | None,
    measure_test: bool,
) -> dict[str, Any]:
    """Return what a run came to: how long it was, what was chosen, and what that measures.

    Raises:
        UsageError: If it ended without a validation.
    """
    checkpoint = None if stopped is None else stopped.checkpoint
    trainer.fit(cli.model, cli.datamodule, ckpt_path=checkpoint, weights_only=True)
    writing = trainer.strategy.checkpoint_io
    assert isinstance(writing, DurableCheckpointIO)
    epochs, steps = trainer.current_epoch, trainer.global_step
    chosen = Path(best.best_model_path)
    if not best.best_model_path:
        raise UsageError(
            f"{steps} steps were taken without a validation, so nothing was chosen to be "
            f"tested; set --trainer.val_check_interval {steps} or less"
        )
    return {
        "epochs": epochs,
        "steps": steps,
        "chosen_by": best.monitor,
        "best_checkpoint": f"checkpoints/{chosen.name}",
        "checkpoint_seconds": round(writing.seconds, 2),
        "metrics": measure_best(trainer, cli.model, cli.datamodule, chosen, measure_test),
    }


def announce(
    trainer: Trainer, task: LightningModule, data: LightningDataModule | None, directory: Path
) -> None:
    """Print what is about to be trained, on what, and where it is kept."""
    if not trainer.is_global_zero:
        return
    network = getattr(task, "network", task)
    parameters = sum(p.numel() for p in network.parameters())
    print(f"{type(network).__name__}, {parameters:,} parameters", end="")
    if data is not None and hasattr(data, "summary"):
        print(f", on {data.summary()}", end="")
    device = trainer.strategy.root_device.type
    processes = f"{trainer.world_size} x " if trainer.world_size > 1 else ""
    print(f"\n{processes}{device}, {trainer.precision}; run directory {directory}")
    if text := step_of_processes(trainer, data):
        print(text)


def measure_best(
    trainer: Trainer,
    task: LightningModule,
    data: LightningDataModule,
    checkpoint: Path,
    measure_test: bool,
) -> dict[str, Any]:
    """Return {"val": ..., "test": ...}: what the best checkpoint measures on the splits there are.

    Figures that the task gives with an interval, in `measured`, stand for those it logged.
    """
    # Weight averaging would replace the weights of the best checkpoint by the last average.
    trainer.callbacks = [  # type: ignore[attr-defined]
        c
        for c in trainer.callbacks  # type: ignore[attr-defined]
        if not isinstance(c, WeightAveraging)
    ]
    loggers = trainer.loggers
    metrics = {}
    splits = [("val", trainer.validate), ("test", trainer.test)]
    for split, evaluate in splits[: 2 if measure_test and has_test_split(data) else 1]:
        trainer.loggers = loggers if split == "test" else []  # validation is in the curves already
        logged = evaluate(
            task, datamodule=data, ckpt_path=checkpoint, weights_only=True, verbose=False
        )
        found = {n.removeprefix(f"{split}/"): v for part in logged for n, v in part.items()}
        metrics[split] = found | getattr(task, "measured", {})
        if trainer.is_global_zero:
            save_outcomes(checkpoint.parent.parent, split, getattr(task, "outcomes", {}))
            if measure_test:  # nobody looks at the pictures of every trial of a sweep
                log_outcomes(loggers, task, data, split, trainer.global_step)
    trainer.loggers = loggers
    return metrics


def has_test_split(data: LightningDataModule) -> bool:
    """Return False for data that say which splits they have and name no test."""
    return "test" in getattr(data, "splits", ("test",))
