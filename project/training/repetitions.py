"""One recipe with several seeds or folds: a run each, and what they come to together."""

import os
import re
import signal
import subprocess
import sys
from argparse import ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from project.checkpoints.interruption import handled_by
from project.comparison.leaderboard import leaderboards
from project.comparison.runs import Run, collect, directories, read_run
from project.comparison.terminal import text_of
from project.configuration import ProjectCLI, complete_config
from project.distributed.slurm import job
from project.messages import UsageError
from project.provenance import code_hash

STOPPED = ("running", "interrupted")  # by a kill, or by a signal
HANDED_ON = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]


def numbers(text: str) -> list[int]:
    """Return what `0..4`, `0,3` or `0..2,7` names, each once.

    Raises:
        ArgumentTypeError: If it is none of these.
    """
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:\.\.(\d+))?\s*", part)
        if not match or (match[2] and int(match[2]) < int(match[1])):
            raise ArgumentTypeError(f"{text!r} is not like 0..4 or 0,3,7")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return list(dict.fromkeys(found))


def train_repeatedly(
    cli: ProjectCLI, arguments: list[str], seeds: list[int], folds: list[int], allowed: list[str]
) -> int:
    """Train a run for each seed and fold, and print what they come to; return the exit code."""
    code, runs = train_each(cli, arguments, seeds, folds, allowed)
    if code == 0:
        found = collect([run.directory for run in runs])
        print("\n" + text_of(leaderboards(found.groups), found.left_out))
    return code


def train_each(
    cli: ProjectCLI,
    arguments: list[str],
    seeds: list[int],
    folds: list[int],
    allowed: Sequence[str] = (),
) -> tuple[int, list[Run]]:
    """Train a run for each seed and fold, one after the other.

    A run that is finished already, with the same configuration and code, is not trained again; one
    that was stopped goes on.

    Args:
        cli: The configuration, which `arguments` describe.
        seeds, folds: An empty list means that of the configuration.
        allowed: Packages whose classes a run that goes on may name, besides ours.

    Returns:
        The exit code of the first run that does not end well, else 0, and the runs before it.

    Raises:
        UsageError: If the data have no such folds, or a launcher has started several processes.
    """
    text = complete_config(cli)
    config = yaml.safe_load(text)
    check(config, folds)
    runs = Path(cli.config.runs_dir)
    used: list[Run] = []
    for seed in seeds or [int(cli.config.seed_everything)]:
        for fold in folds or (None,):
            name = f"seed {seed}" + ("" if fold is None else f", fold {fold}")
            chosen = ["--seed_everything", str(seed)]
            chosen += [] if fold is None else ["--data.fold", str(fold)]
            record = {"seed": seed, "code_sha256": code_hash(text)}
            wanted = Run(Path(), record, with_fold(config, fold))
            code, done = train_one(name, [*arguments, *chosen], wanted, runs, allowed)
            if code:
                then = "goes on with it" if code >= 128 else "tries it again"
                print(f"{name} ended with code {code}; the same command {then}", file=sys.stderr)
                return code, used
            used += [run for run in (read_run(done),) if run is not None]
    return 0, used


def check(config: dict[str, Any], folds: list[int]) -> None:
    """Stop before anything is trained where it cannot be repeated.

    Raises:
        UsageError: With the remedy.
    """
    if "LOCAL_RANK" in os.environ:
        raise UsageError("--seeds and --folds start each run themselves: leave out the launcher")
    if job() and (tasks := int(os.environ["SLURM_NTASKS"])) > 1:
        raise UsageError(
            f"--seeds and --folds start each run themselves, and not in {tasks} tasks of SLURM; "
            "use one task, or an array job with --seed_everything $SLURM_ARRAY_TASK_ID"
        )
    if config["trainer"].get("fast_dev_run"):
        raise UsageError("trainer.fast_dev_run keeps nothing: there is nothing to repeat")
    if not folds:
        return
    arguments = (config.get("data") or {}).get("init_args", {})
    if "num_folds" not in arguments:
        raise UsageError("--folds: these data have no folds; ImageData has")
    if arguments["num_folds"] is None or max(folds) >= arguments["num_folds"]:
        raise UsageError(
            f"--folds {max(folds)} of data.num_folds {arguments['num_folds']}: set "
            f"--data.num_folds to {max(2, max(folds) + 1)} or more; folds are counted from 0"
        )


def with_fold(config: dict[str, Any], fold: int | None) -> dict[str, Any]:
    if fold is None:
        return config
    data = config["data"]
    return {**config, "data": {**data, "init_args": {**data["init_args"], "fold": fold}}}


def train_one(
    name: str, arguments: list[str], wanted: Run, runs: Path, allowed: Sequence[str]
) -> tuple[int, Path]:
    """Train, go on with, or find a run; return its exit code and its directory."""
    known = [run for run in map(read_run, directories([runs])) if run and run.repeats(wanted)]
    found = newest([run for run in known if run.code == wanted.code])
    if found is not None and found.record["status"] == "finished":
        print(f"--- {name}: is there, {found.directory}", flush=True)
        return 0, found.directory
    if found is not None:
        print(f"--- {name}: goes on in {found.directory}", flush=True)
        trusted = [word for package in allowed for word in ("--allow", package)]
        return run_in_a_process(["--resume", str(found.directory), *trusted]), found.directory
    print(f"--- {name}" + (": a run by other code is there; anew" if known else ""), flush=True)
    before = set(directories([runs]))
    code = run_in_a_process(arguments)
    # Others may have begun meanwhile, and its code may have been edited.
    fresh = [read_run(place) for place in directories([runs]) if place not in before]
    mine = [run.directory for run in fresh if run and run.repeats(wanted)]
    return code, mine[-1] if mine else Path()


def newest(runs: list[Run]) -> Run | None:
    """Return the newest of runs in the order of their names; a finished before a stopped one."""
    usable = [run for run in runs if run.record.get("status") in ("finished", *STOPPED)]
    usable.sort(key=lambda run: run.record["status"] == "finished")
    return usable[-1] if usable else None


def finished(cli: ProjectCLI) -> list[Run]:
    """Return the finished runs of a configuration and of this code, the newest of each seed."""
    text = complete_config(cli)
    wanted = Run(Path(), {"code_sha256": code_hash(text)}, yaml.safe_load(text))
    found = {}
    for directory in directories([Path(cli.config.runs_dir)]):
        run = read_run(directory)
        is_same = run and (run.recipe, run.code) == (wanted.recipe, wanted.code)
        if run and is_same and run.record.get("status") == "finished":
            found[run.repetition] = run
    return [found[repetition] for repetition in sorted(found)]


def run_in_a_process(arguments: list[str]) -> int:
    """Train in a process of its own, as if typed alone; return its exit code.

    SIGTERM and SIGUSR1 are handed on, so that the run is saved. Ctrl-C reaches both from the
    terminal.
    """
    command = [sys.executable, "-m", "project.train", *arguments]
    # The run that was begun before is found here, and not by the job of SLURM (`slurm.py`).
    variables = {**os.environ, "PROJECT_REPETITION": "1"}
    with (
        subprocess.Popen(command, env=variables) as process,
        handled_by(lambda signum, frame: process.send_signal(signum), HANDED_ON),
    ):
        while True:
            try:
                return exit_code(process.wait())
            except KeyboardInterrupt:
                continue  # until the run has saved itself


def exit_code(returned: int) -> int:
    """Return 128 + N for a process that signal N ended."""
    return 128 - returned if returned < 0 else returned
