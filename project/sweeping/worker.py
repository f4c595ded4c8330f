"""A process that runs one trial after the other, and tells its supervisor what becomes of them.

In one process, since a start of Python and torch takes longer than many a trial. What a trial
prints goes to its log.
"""

import faulthandler
import gc
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from project.checkpoints.resume import StoppedRun, changes, inexact, open_run, sole_user
from project.command_line import quieten_lightning
from project.configuration import ProjectCLI
from project.messages import RunPruned, UsageError, warn
from project.training.command import build
from project.training.run import run

SECONDS_TO_LEAVE = 60  # for a process whose supervisor was killed, until it has saved its run


class Job(NamedTuple):
    """A trial to run.

    Args:
        name: Of its run: what `experiment` is.
        arguments: Of project.train.
        folder: Of the runs and logs of all trials.
    """

    name: str
    arguments: list[str]
    folder: Path


class ReportToSweep(Callback):
    """Tells the sweep what each validation measured; ends the run where the sweep prunes it.

    Args:
        monitor: The metric that is searched by.
        is_pruned: Takes the number of validations so far and the metric.
    """

    def __init__(self, monitor: str, is_pruned: Callable[[int, float], bool]) -> None:
        self.monitor = monitor
        self.is_pruned = is_pruned
        self.validations = 0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        if self.monitor not in trainer.callback_metrics:
            raise UsageError(f"best.monitor {self.monitor} is not logged by a validation")
        self.validations += 1
        if self.is_pruned(self.validations, float(trainer.callback_metrics[self.monitor])):
            raise RunPruned(f"after {self.validations} validations")

    def state_dict(self) -> dict[str, Any]:
        return {"validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.validations = state_dict["validations"]


def work(supervisor: Connection, gpu: str | None, threads: int | None) -> None:
    """Run the jobs that come, until None; answer each with how it ended, and why.

    Args:
        gpu: The CUDA device to use, as CUDA_VISIBLE_DEVICES has it.
        threads: Of torch; as many as it takes by default.
    """
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # read when CUDA is first used
    if threads is not None:
        torch.set_num_threads(threads)
    quieten_lightning()
    faulthandler.enable()
    Thread(target=end_with_the_supervisor, daemon=True).start()
    with suppress(EOFError):
        for job in iter(supervisor.recv, None):
            with printing_to(job.folder / f"{job.name}.log"):
                ended, reason = run_trial(job, supervisor)
            supervisor.send((ended, reason))
            if ended == "FAIL":
                return  # what it may have left behind, such as memory, ends with the process


def end_with_the_supervisor() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)  # the run is saved


def run_trial(job: Job, supervisor: Connection) -> tuple[str, str]:
    """Return how it ended, `COMPLETE`, `PRUNED` or `FAIL`, and the reason of the last."""

    def is_pruned(validations: int, value: float) -> bool:
        try:
            supervisor.send(("validated", validations, value))
            return bool(supervisor.recv())
        except (EOFError, OSError):  # it was killed
            raise SystemExit(143) from None

    try:
        begin_or_go_on(job, is_pruned)
        return "COMPLETE", ""
    except RunPruned:
        return "PRUNED", ""
    except Exception as error:
        traceback.print_exc()
        return "FAIL", f"{type(error).__name__}: {error}"
    finally:
        gc.collect()  # Trainer and model refer to each other
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def begin_or_go_on(job: Job, is_pruned: Callable[[int, float], bool]) -> None:
    """Run a trial from its beginning, or go on with the run that it has."""
    runs = ["--runs_dir", str(job.folder), "--experiment", job.name]
    arguments = [*job.arguments, *runs]
    cli = build(arguments)
    report = ReportToSweep(cli.config.best.monitor, is_pruned)
    found = sorted(job.folder.glob(f"*_{job.name}_*/run.json"))
    if found:
        with sole_user(found[-1].parent, seconds=SECONDS_TO_LEAVE):
            if stopped := stopped_run(found[-1].parent, cli):
                if stopped.record["status"] != "finished":
                    run(cli, arguments, stopped, callbacks=[report], measure_test=False)
                return
    run(cli, arguments, callbacks=[report], measure_test=False)


def stopped_run(directory: Path, cli: ProjectCLI) -> StoppedRun | None:
    """Return a run to go on with; None where the rest would not be what it would have been."""
    try:
        stopped = open_run(directory, [])
    except UsageError as error:
        warn(f"begun again: {error}")
        return None
    reasons = inexact(stopped, changes(stopped, cli), cli)
    for reason in reasons:
        warn(f"begun again: {reason}")
    return None if reasons else stopped


@contextmanager
def printing_to(log: Path) -> Iterator[None]:
    """Append what this process prints, in Python or below it, to a file."""
    streams = (sys.stdout, sys.stderr)
    before = [os.dup(stream.fileno()) for stream in streams]
    with log.open("a", encoding="utf-8") as file:
        for stream in streams:
            os.dup2(file.fileno(), stream.fileno())
    try:
        yield
    finally:
        for stream, descriptor in zip(streams, before, strict=True):
            stream.flush()
            os.dup2(descriptor, stream.fileno())
            os.close(descriptor)
