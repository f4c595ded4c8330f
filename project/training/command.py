"""What was typed: answered, refused, tried, gone on with, or run."""

import argparse
import os
import sys
import tempfile
import traceback
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from project.checkpoints.loading import class_paths, imports_limited_to
from project.checkpoints.resume import (
    ROUNDING,
    StoppedRun,
    changes,
    check_possible,
    code_has_changed,
    inexact,
    is_longer,
    open_run,
    other_surroundings,
    run_directory_of,
    sole_user,
)
from project.command_line import quieten_lightning
from project.configuration import ProjectCLI, class_help, complete_config, help_of_everything
from project.costs.grid import check_energy
from project.distributed.processes import as_launched, check_launch, process_rank
from project.distributed.slurm import begun_before
from project.messages import RunError, UsageError, said_by_a_class, warn
from project.optimization.initial_weights import prepare_network
from project.provenance import typed_command
from project.training.repetitions import numbers, train_repeatedly
from project.training.run import exit_code_after, has_test_split, run


def command(arguments: list[str]) -> int:
    """Do what the arguments of `project.train` ask; return the exit code.

    0 when it is done, 2 for what is not possible, 1 for a run that failed, 130 after Ctrl-C and
    143 after SIGTERM or SIGUSR1. What a user gave is refused in a line or two, with nothing
    created. Errors of the training itself, such as a bug in a new network, pass through with
    their traceback.
    """
    is_debug = "--debug" in arguments
    quieten_lightning()
    try:
        return answer(*general_options(arguments))
    except (UsageError, RunError) as error:
        if is_debug:
            traceback.print_exc()
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        if isinstance(error.__cause__, ValueError) and not is_debug:
            print("  (--debug shows where)", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except SystemExit as stopped:  # by a signal
        return exit_code_after(stopped)


def answer(options: argparse.Namespace, arguments: list[str]) -> int:
    """Explain, go on with, repeat, try or begin what is asked for; return the exit code."""
    if text := help_asked_for(arguments):
        print(text, end="")
        return 0
    is_repeated = bool(options.seeds or options.folds)
    if options.resume is not None:
        if is_repeated:
            raise UsageError("--resume goes on with one run; --seeds and --folds find theirs")
        resume(options, arguments)
        return 0
    if options.force or (options.allow and not is_repeated):
        raise UsageError("--force and --allow are for a run that is resumed: add --resume RUN")
    cli = build(arguments)
    if is_repeated:
        return train_repeatedly(cli, arguments, options.seeds, options.folds, options.allow)
    if cli.config.trainer.fast_dev_run:
        try_a_few_batches(cli)
    elif begun := begun_before(Path(cli.config.runs_dir), typed_command("train", arguments)):
        if process_rank() == 0:
            print(f"this job was requeued: going on with {begun}", flush=True)
        options.resume, options.allow = str(begun), modules_named_in(cli)
        del cli  # its data would be held twice
        resume(options, [])
    else:
        run(cli, arguments)
    return 0


def help_asked_for(arguments: list[str]) -> str:
    """Return the help that the arguments ask for, "" where they ask for none."""
    for argument, following in zip_longest(arguments, arguments[1:], fillvalue=""):
        flag, _, value = argument.partition("=")
        if flag.endswith(".help"):
            key = flag.removeprefix("--").removesuffix(".help")
            return class_help(key, value or following)
    if arguments[-2:] == ["--help", "all"]:
        return help_of_everything(ProjectCLI(arguments[:-2])) + "\n"
    return ""


def general_options(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the options that are no part of a configuration, and the other arguments."""
    form = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    form.add_argument("--debug", action="store_true")
    form.add_argument("--resume", metavar="RUN")
    form.add_argument("--force", action="store_true")
    form.add_argument("--allow", metavar="PACKAGE", action="append", default=[])
    form.add_argument("--seeds", type=numbers, default=[])
    form.add_argument("--folds", type=numbers, default=[])
    try:
        return form.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        needs = " needs a value" if "expected one" in error.message else ""
        raise UsageError(f"{error.argument_name}{needs}: {error.message}") from error


def build(arguments: list[str]) -> ProjectCLI:
    """Return the task and the data that the arguments describe, after a rehearsal of both."""
    try:
        cli = ProjectCLI(arguments)
        rehearse(cli.model, cli.datamodule)
    except (ValueError, OSError) as error:  # a number out of range, a file that is not there
        raise UsageError(said_by_a_class(str(error))) from error
    if cli.config.checkpoint_minutes < 0:
        raise UsageError(
            f"checkpoint_minutes {cli.config.checkpoint_minutes} must be 0 or more; 0 saves before "
            "every step"
        )
    threads, cores = cli.config.speed.threads, os.cpu_count() or 1
    if threads is not None and not 1 <= threads <= cores:
        raise UsageError(f"speed.threads {threads} must be 1 to {cores}, the cores of this machine")
    check_energy(cli.config.energy)
    settings = cli.config.trainer
    for name in ("limit_train_batches", "limit_val_batches", "limit_test_batches", "max_epochs"):
        if settings[name] == 0 and not settings.fast_dev_run:
            raise UsageError(
                f"trainer.{name} 0: a run trains, chooses its best by {cli.config.best.monitor} "
                "and tests it; set it to 1 or more, or use --trainer.fast_dev_run true"
            )
    return cli


def modules_named_in(cli: ProjectCLI) -> list[str]:
    """Return the modules of all classes of a configuration that was typed, and so is trusted."""
    paths = class_paths(yaml.safe_load(complete_config(cli)))
    return sorted({path.rpartition(".")[0] for _, path in paths})


def rehearse(task: LightningModule, data: LightningDataModule | None) -> None:
    """Fetch and open the data, and hold the network against it, before a run is created.

    For tasks that check their data, and only on the first process: the others find the files
    when Lightning asks them.
    """
    if data is None or process_rank() != 0 or not hasattr(task, "check_data"):
        return
    data.prepare_data()
    data.setup("fit")
    task.check_data(data)  # type: ignore[operator]


def resume(options: argparse.Namespace, arguments: list[str]) -> None:
    """Go on with a run in its directory, from its last checkpoint, exactly.

    Raises:
        UsageError: If there is nothing to go on from, or the run would become another one and
            `--force` was not given.
    """
    directory = run_directory_of(options.resume)
    with sole_user(directory):
        stopped = open_run(directory, options.allow)
        with tempfile.TemporaryDirectory() as scratch:
            config = Path(scratch, "config.yaml")
            config.write_text(stopped.config, encoding="utf-8")
            with imports_limited_to(options.allow):
                cli = build(["--config", str(config), *arguments])
        if cli.config.trainer.fast_dev_run:
            raise UsageError("trainer.fast_dev_run keeps nothing, so no run can go on with it")
        changed = changes(stopped, cli)
        check_possible(stopped, changed)
        longer = [key for key, values in changed.items() if is_longer(key, *values)]
        reasons = inexact(stopped, changed, cli)
        if reasons and not options.force:
            shown = "; ".join(reasons[:4]) + ("; ..." if len(reasons) > 4 else "")
            raise UsageError(
                f"{shown}: the rest would not be the run that was begun; go on as it was, or with "
                "--force"
            )
        if stopped.record.get("status") == "finished" and not longer:
            limit = "max_steps" if cli.config.trainer.max_epochs in (None, -1) else "max_epochs"
            if process_rank() == 0:
                print(f"{directory} is finished: nothing to do; --trainer.{limit} makes it longer")
            return
        if process_rank() == 0:
            warn_of(stopped, reasons, {key: changed[key] for key in longer}, changed)
        stopped = replace(
            stopped,
            is_extended=bool(longer),
            is_changed=bool(reasons),
            is_forced=options.force,
        )
        typed = ["--resume", options.resume, *["--force"][: options.force], *arguments]
        run(cli, typed, stopped)


def warn_of(
    stopped: StoppedRun,
    reasons: list[str],
    longer: dict[str, tuple[Any, Any]],
    changed: dict[str, tuple[Any, Any]],
) -> None:
    """Say what is not as it was about a run that goes on."""
    for text in reasons:
        warn(f"{text}: from here on it is another run")
    for key, (before, now) in longer.items():
        warn(f"{key} was {before} and is {now}: the run is made longer")
    switched = [f"{k} was {was} and is {now}" for k, (was, now) in changed.items() if k in ROUNDING]
    for text in switched + other_surroundings(stopped):
        warn(f"{text}: the last bits of numbers may differ")
    if code_has_changed(stopped.directory, stopped.record):
        warn("the code is not what it was: the rest may be another run (see code.patch)")


def try_a_few_batches(cli: ProjectCLI) -> None:
    """Do what `fast_dev_run` asks: train, validate and test a few batches, and keep nothing."""
    prepare_network(cli, is_restored=False)
    try:
        trainer = Trainer(**as_launched(dict(cli.config_init.trainer)))
        check_launch(trainer)
    except MisconfigurationException as error:  # such as a GPU that is not there
        raise UsageError(str(error)) from error
    trainer.fit(cli.model, cli.datamodule)
    if has_test_split(cli.datamodule):
        trainer.test(cli.model, cli.datamodule)
