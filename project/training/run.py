"""One run from arguments to its closing table: build, rehearse, fit, validate, test, record."""

import logging
import shutil
import sys
import traceback
import warnings
from itertools import zip_longest
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    EarlyStopping,
    ModelCheckpoint,
    ProgressBar,
    WeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from project.configuration import ProjectCLI, Selection, class_help, help_of_everything
from project.messages import UsageError
from project.training.progress import progress_display
from project.training.results import closing_table
from project.training.run_directory import (
    RunRecord,
    create_run_directory,
    process_rank,
    provenance,
    write_patch,
)


def command(arguments: list[str]) -> int:
    """Do what the arguments of `project.train` ask; return 0, or 2 if that is not possible.

    What a user gave is refused in a line or two, with nothing created. Errors of the training
    itself, such as a bug in a new network, pass through with their traceback.
    """
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    quieten_lightning()
    try:
        for argument, following in zip_longest(arguments, arguments[1:], fillvalue=""):
            flag, _, value = argument.partition("=")
            if flag.endswith(".help"):
                key = flag.removeprefix("--").removesuffix(".help")
                print(class_help(key, value or following), end="")
                return 0
        if arguments[-2:] == ["--help", "all"]:
            print(help_of_everything(ProjectCLI(arguments[:-2])))
            return 0
        cli = build(arguments)
        if cli.config.trainer.fast_dev_run:
            try_a_few_batches(cli)
        else:
            run(cli, arguments)
    except UsageError as error:
        if debug:
            traceback.print_exc()
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        if isinstance(error.__cause__, ValueError) and not debug:
            print("  (--debug shows where)", file=sys.stderr)
        return 2
    return 0


def build(arguments: list[str]) -> ProjectCLI:
    """Return the task and the data that the arguments describe, after a rehearsal of both."""
    try:
        cli = ProjectCLI(arguments)
        rehearse(cli.model, cli.datamodule)
    except (ValueError, OSError) as error:  # a number out of range, a file that is not there
        raise UsageError(str(error)) from error
    settings = cli.config.trainer
    for name in ("limit_train_batches", "limit_val_batches", "limit_test_batches", "max_epochs"):
        if settings[name] == 0 and not settings.fast_dev_run:
            raise UsageError(
                f"trainer.{name} 0: a run trains, chooses its best by {cli.config.best.monitor} "
                "and tests it; set it to 1 or more, or use --trainer.fast_dev_run true"
            )
    return cli


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


def run(cli: ProjectCLI, arguments: list[str]) -> dict[str, Any]:
    """Fit, validate and test what the configuration describes; return the run's record."""
    config = cli.config
    directory = create_run_directory(Path(config.runs_dir), config.experiment)
    record = {
        "experiment": config.experiment,
        "status": "running",
        "seed": config.seed_everything,
        **provenance(arguments),
    }
    keeper = RunRecord(directory, record)
    try:
        best = best_checkpoint(config.best, directory)
        trainer = build_trainer(
            cli.config_init.trainer, config.best, [ValidateAtLastStep(), keeper, best], directory
        )
    except Exception as error:  # such as a GPU that is not there: nothing has been run
        if process_rank() == 0:
            shutil.rmtree(directory)
        raise UsageError(str(error)) from error
    if process_rank() == 0:
        cli.parser.save(config, str(directory / "config.yaml"), skip_unset=False, overwrite=True)
        write_patch(directory)
    announce(trainer, cli.model, cli.datamodule, directory)
    try:
        keeper.update(status="finished", **fit_and_measure(cli, trainer, best))
    except BaseException as error:
        # Lightning turns Ctrl-C into SystemExit(1).
        interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
        status = "interrupted" if interrupted else "failed"
        keeper.update(status=status, error=f"{type(error).__name__}: {error}")
        raise
    if trainer.is_global_zero:
        print(closing_table(record, directory))
    return record


def fit_and_measure(cli: ProjectCLI, trainer: Trainer, best: ModelCheckpoint) -> dict[str, Any]:
    """Return what a run came to: how long it was, what was chosen, and what that measures.

    Raises:
        UsageError: If it ended without a validation.
    """
    for logger in trainer.loggers[1:]:  # config.yaml has it beside the CSV
        logger.log_hyperparams(cli.config.as_dict())
    trainer.fit(cli.model, cli.datamodule)
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
        "metrics": measure_best(trainer, cli.model, cli.datamodule, chosen),
    }


def try_a_few_batches(cli: ProjectCLI) -> None:
    """Do what `fast_dev_run` asks: train, validate and test a few batches, and keep nothing."""
    trainer = Trainer(**cli.config_init.trainer)
    trainer.fit(cli.model, cli.datamodule)
    if has_test_split(cli.datamodule):
        trainer.test(cli.model, cli.datamodule)


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
    print(f"\n{processes}{device}, {trainer.precision}; run directory {directory}", flush=True)


class ValidateAtLastStep(Callback):
    """Makes a run that is limited in steps, or validated by steps, end with a validation."""

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        is_last_epoch = trainer.current_epoch + 1 == trainer.max_epochs
        by_steps = trainer.check_val_every_n_epoch is None
        ends = by_steps and is_last_epoch and trainer.is_last_batch
        if ends or trainer.global_step == trainer.max_steps:
            trainer.should_stop = True  # Lightning validates before an early stop


def best_checkpoint(best: Selection, directory: Path) -> ModelCheckpoint:
    return ModelCheckpoint(
        directory / "checkpoints",
        filename="best",
        monitor=best.monitor,
        mode=best.mode,
        enable_version_counter=False,
    )


def build_trainer(
    settings: Namespace, best: Selection, ours: list[Callback], directory: Path
) -> Trainer:
    """Return the Trainer with the checkpoints, loggers and displays of every run."""
    arguments = dict(settings)
    theirs = arguments.pop("callbacks") or []
    callbacks = [*ours, *(theirs if isinstance(theirs, list) else [theirs])]
    checkpoints = directory / "checkpoints"
    callbacks.append(ModelCheckpoint(checkpoints, filename="last", enable_version_counter=False))
    if best.patience is not None:
        callbacks.append(EarlyStopping(best.monitor, mode=best.mode, patience=best.patience))
    if arguments["enable_progress_bar"] is not False:
        callbacks.append(display := progress_display())
        arguments["enable_progress_bar"] = isinstance(display, ProgressBar)
    arguments["enable_model_summary"] = bool(arguments["enable_model_summary"])
    loggers = arguments.pop("logger")
    if loggers is None or loggers is True:
        loggers = [TensorBoardLogger(directory, name="", version="", default_hp_metric=False)]
    elif loggers is False:
        loggers = []
    elif isinstance(loggers, Logger):
        loggers = [loggers]
    loggers = [CSVLogger(directory, name="", version=""), *loggers]
    arguments["default_root_dir"] = str(directory)
    return Trainer(**arguments, callbacks=callbacks, logger=loggers)


def measure_best(
    trainer: Trainer, task: LightningModule, data: LightningDataModule, checkpoint: Path
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
    for split, evaluate in splits[: None if has_test_split(data) else 1]:
        trainer.loggers = loggers if split == "test" else []  # validation is in the curves already
        logged = evaluate(
            task, datamodule=data, ckpt_path=checkpoint, weights_only=True, verbose=False
        )
        found: dict[str, Any] = {}
        for name, value in (item for part in logged for item in part.items()):
            found[name.removeprefix(f"{split}/")] = value
        metrics[split] = found | getattr(task, "measured", {})
    return metrics


def has_test_split(data: LightningDataModule) -> bool:
    """Return False for data that say which splits they have and name no test."""
    return "test" in getattr(data, "splits", ("test",))


def quieten_lightning() -> None:
    """Drop what Lightning says on every run and what this project does on purpose."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    for message in (
        ".*is an instance of `nn.Module`.*",  # among the hyper-parameters it reloads alone
        ".*exists and is not empty. Previous log files.*",  # config.yaml is there first
        "Be aware that when using `ckpt_path`, callbacks.*",  # see `measure_best`
        ".*isinstance.treespec, LeafSpec.*",  # Lightning 2.6 on torch 2.15
        ".*is smaller than the logging interval.*",  # epochs are logged all the same
    ):
        warnings.filterwarnings("ignore", message=message)
