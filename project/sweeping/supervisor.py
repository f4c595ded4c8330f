"""Hands trials to worker processes, and goes on whatever becomes of one of them.

The supervisor alone draws, decides and writes the study; a worker (`worker.py`) only trains. So a
worker that crashes, runs out of memory or is killed takes its trial with it and nothing else.
"""

import argparse
import multiprocessing
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from optuna import Study
from optuna.trial import Trial, TrialState

from project.checkpoints.interruption import Stopped, StopRequest
from project.checkpoints.resume import sole_user
from project.command_line import quieten_lightning
from project.configuration import ProjectCLI
from project.distributed.slurm import requeue_after
from project.messages import RunError, UsageError
from project.sweeping.plots import plot
from project.sweeping.space import Sweep, check, read_sweep
from project.sweeping.study import (
    ENDED,
    begin_trial,
    best_of,
    end_trial,
    going_on,
    open_study,
    validated,
    write_best,
)
from project.sweeping.table import Table
from project.sweeping.worker import Job, work

FAILURES_IN_A_ROW = 5  # after which the next one is likely to fail too
# By a worker's exit code.
STOPPED = {130: signal.SIGINT, 143: signal.SIGTERM, -2: signal.SIGINT, -15: signal.SIGTERM}


def sweep(options: argparse.Namespace, typed: list[str]) -> int:
    """Run a sweep, or what is left of it; return 0, or 130 or 143 after a signal.

    Raises:
        UsageError: If it is not possible as it was asked for.
        RunError: If too many trials failed in a row.
    """
    quieten_lightning()
    plan = read_sweep(options.config, typed)
    base = check(plan)
    monitor = base.config.best.monitor
    folder = options.runs_dir / "sweeps" / plan.name
    try:
        (folder / "trials").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be created: {error.strerror}; set --runs_dir") from error
    with sole_user(folder, "sweep"):
        study = open_study(plan, base, folder)
        trials = options.trials or plan.asked.trials
        table = Table(plan, study, monitor, trials)
        crew = Supervisor(plan, base, study, folder, table, trials, options.processes)
        with crew.stop.listening(at_once=crew.kill), table.showing(folder):
            try:
                crew.run()
            finally:
                crew.dismiss()
        if best_of(study):  # also where a kill came between a trial's end and its best.yaml
            write_best(study, plan, base, folder)
        table.close(folder, plot(study, monitor, folder))
    if crew.failures >= FAILURES_IN_A_ROW:
        raise RunError(
            f"{crew.failures} trials in a row failed, the last with {crew.last_reason} "
            f"(see {folder / 'trials'}/*.log); mend it, then the same command goes on"
        )
    if crew.stop.signum:
        requeue_after(Stopped(crew.stop.signum))
        print("stopped; the same command goes on, with what was under way where it was")
    return crew.stop.exit_code


@dataclass(eq=False)
class Worker:
    """A process that trains, and the trial that it has."""

    process: Any
    connection: Connection
    trial: Trial | None = None
    since: float = 0.0  # seconds of the monotonic clock


class Supervisor:
    """The workers of a sweep.

    Args:
        trials: How many are to end with a value or be pruned.
        processes: The most workers at a time.
    """

    def __init__(
        self,
        sweep: Sweep,
        base: ProjectCLI,
        study: Study,
        folder: Path,
        table: Table,
        trials: int,
        processes: int,
    ) -> None:
        self.sweep, self.base, self.study, self.folder = sweep, base, study, folder
        self.table, self.trials, self.processes = table, trials, processes
        self.stop = StopRequest()
        self.workers: list[Worker | None] = [None] * processes
        self.interrupted = going_on(study)  # of before, to go on with
        self.failures = 0  # in a row
        self.last_reason = ""

    def run(self) -> None:
        """Run trials until as many have ended as are wanted, or it is to stop."""
        has_forwarded = False
        while True:
            self.hand_out()
            if not (busy := self.busy()):
                return
            ready = wait([worker.connection for worker in busy], timeout=1)
            for worker in busy:
                if worker.connection in ready:
                    self.hear(worker)
            if self.stop.exit_code and not has_forwarded:
                has_forwarded = True
                for worker in self.busy():
                    worker.process.terminate()  # it saves its run first

    def busy(self) -> list[Worker]:
        return [worker for worker in self.workers if worker is not None and worker.trial]

    def hand_out(self) -> None:
        """Give trials to workers that have none."""
        for place in range(self.processes):
            if self.stop.exit_code or self.failures >= FAILURES_IN_A_ROW:
                return
            worker = self.workers[place]
            if worker is not None and worker.trial is not None:
                continue
            trial = self.next_trial()
            if trial is None:
                return
            if worker is None:
                worker = self.workers[place] = self.start_worker(place)
            worker.trial, worker.since = trial, time.monotonic()
            arguments = self.sweep.trial_arguments(trial.params)
            job = Job(f"trial-{trial.number:04d}", arguments, self.folder / "trials")
            with suppress(OSError):  # a worker that was killed while it waited: `hear` finds out
                worker.connection.send(job)

    def next_trial(self) -> Trial | None:
        if self.interrupted:
            return self.interrupted.pop(0)
        ended = len(self.study.get_trials(deepcopy=False, states=ENDED))
        if ended + len(self.busy()) >= self.trials:
            return None
        return begin_trial(self.study, self.sweep)

    def start_worker(self, place: int) -> Worker:
        """Start a process, with a share of the GPUs or of the CPU's cores."""
        gpus = visible_gpus()
        gpu = gpus[place % len(gpus)] if gpus else None
        threads = max(1, torch.get_num_threads() // self.processes) if self.processes > 1 else None
        context = multiprocessing.get_context("spawn")  # a fork of torch's threads hangs
        here, there = context.Pipe()
        process = context.Process(target=work, args=(there, gpu, threads))
        # Ctrl-C reaches all processes of a terminal: a worker listens while it has a run to save.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        process.start()
        signal.signal(signal.SIGINT, handler)
        there.close()
        return Worker(process, here)

    def hear(self, worker: Worker) -> None:
        """Take one message of a worker, or its end."""
        assert worker.trial is not None
        try:
            word, *rest = worker.connection.recv()
        except (EOFError, OSError):
            self.mourn(worker)
            return
        if word == "validated":
            is_pruned = validated(worker.trial, *rest)
            self.table.show_validation(worker.trial, *rest)
            with suppress(OSError):
                worker.connection.send(is_pruned)
            return
        self.end(worker, TrialState[word], *rest)
        if word == "FAIL":
            self.forget(worker)

    def mourn(self, worker: Worker) -> None:
        """Fail the trial of a worker that died; one that was asked to stop keeps it for later."""
        self.forget(worker)
        code = worker.process.exitcode
        if code in STOPPED:
            self.stop.signum = self.stop.signum or STOPPED[code]
        elif not self.stop.exit_code:
            self.end(worker, TrialState.FAIL, cause_of_death(code))

    def end(self, worker: Worker, state: TrialState, reason: str) -> None:
        """Write down how a trial ended, and show it."""
        assert worker.trial is not None
        ended = end_trial(worker.trial, state, " ".join(reason.split()))
        worker.trial = None
        if ended.state == TrialState.FAIL:
            self.failures += 1
            self.last_reason = ended.user_attrs["error"]
        else:
            self.failures = 0
        best = best_of(self.study)
        if best is not None and best.number == ended.number:
            write_best(self.study, self.sweep, self.base, self.folder)
        self.table.show(ended, best, time.monotonic() - worker.since)

    def forget(self, worker: Worker) -> None:
        self.workers[self.workers.index(worker)] = None
        worker.process.join()

    def dismiss(self) -> None:
        """Let every worker end, and wait for it; one with a trial saves its run."""
        for worker in filter(None, self.workers):
            if worker.trial is not None:  # after an error here
                worker.process.terminate()
            with suppress(OSError):
                worker.connection.send(None)
            worker.connection.close()
            worker.process.join()

    def kill(self) -> None:
        for worker in filter(None, self.workers):
            worker.process.kill()


def visible_gpus() -> list[str]:
    """Return the CUDA devices that may be used, by their names in CUDA_VISIBLE_DEVICES."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = named.split(",") if named else [str(i) for i in range(torch.cuda.device_count())]
    return names[: torch.cuda.device_count()]


def cause_of_death(exit_code: int) -> str:
    if exit_code >= 0:
        return f"its process ended with exit code {exit_code}"
    name = signal.Signals(-exit_code).name
    return f"its process was ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
