"""One run from arguments to its closing table: build, rehearse, fit, validate, test, record."""

import logging
import sys
import traceback
import warnings
from itertools import pairwise
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

from project.configuration import ProjectCLI, Selection, UsageError, class_help
from project.tasks.image_classification import ImageClassification
from project.training.progress import progress_display
from project.training.results import accuracy_with_interval, closing_table
from project.training.run_directory import (
    RunRecord,
    create_run_directory,
    process_rank,
    provenance,
    write_patch,
)


def command(arguments: list[str]) -> int:
    """Do what the arguments of `project.train` ask; return the exit code."""
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    quieten_lightning()
    try:
        for flag, value in pairwise(arguments):
            if flag.endswith(".help"):
                print(class_help(flag.removeprefix("--").removesuffix(".help"), value), end="")
                return 0
        if arguments == ["--help", "all"]:
            arguments = ["--help"]
        cli = ProjectCLI(arguments)
        rehearse(cli.model, cli.datamodule)
    except UsageError as error:
        return refuse(error, exit_code=2, debug=debug)
    except (ValueError, TypeError, OSError) as error:
        return refuse(error, exit_code=1, debug=debug)
    run(cli)
    return 0


def refuse(error: Exception, exit_code: int, debug: bool) -> int:
    """Say in a line what is wrong with the input; nothing has been created yet."""
    if debug:
        traceback.print_exc()
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return exit_code


def rehearse(task: LightningModule, data: LightningDataModule | None) -> None:
    """Fetch and open the data, and hold the network against it, before a run is created.

    Only on the first process: the others find the files when Lightning asks them.
    """
    if data is None or process_rank() != 0:
        return
    data.prepare_data()
    data.setup("fit")
    if isinstance(task, ImageClassification):
        task.check_data(data)


def run(cli: ProjectCLI) -> dict[str, Any]:
    """Fit, validate and test what the configuration describes; return the run's record."""
    config = cli.config
    directory = create_run_directory(Path(config.runs_dir), config.experiment)
    record = {
        "experiment": config.experiment,
        "status": "running",
        "seed": config.seed_everything,
        **provenance(),
    }
    keeper = RunRecord(directory, record)
    if process_rank() == 0:
        cli.parser.save(config, str(directory / "config.yaml"), skip_unset=False, overwrite=True)
        write_patch(directory)
    trainer = build_trainer(cli.config_init.trainer, config.best, directory, keeper)
    announce(trainer, cli.model, cli.datamodule, directory)
    try:
        for logger in trainer.loggers[1:]:  # config.yaml has it beside the CSV
            logger.log_hyperparams(config.as_dict())
        trainer.fit(cli.model, cli.datamodule)
        finish(trainer, cli.model, cli.datamodule, config.best, keeper, directory)
    except BaseException as error:
        # Lightning turns Ctrl-C into SystemExit(1).
        interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
        status = "interrupted" if interrupted else "failed"
        keeper.update(status=status, error=f"{type(error).__name__}: {error}")
        raise
    if trainer.is_global_zero:
        print(closing_table(record, directory))
    return record


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


def build_trainer(
    settings: Namespace, best: Selection, directory: Path, keeper: Callback
) -> Trainer:
    """Return the Trainer with the checkpoints, loggers and displays of every run."""
    arguments = dict(settings)
    callbacks = arguments.pop("callbacks") or []
    callbacks = [keeper, *(callbacks if isinstance(callbacks, list) else [callbacks])]
    checkpoints = directory / "checkpoints"
    callbacks.append(
        ModelCheckpoint(
            checkpoints,
            filename="best",
            monitor=best.monitor,
            mode=best.mode,
            enable_version_counter=False,
        )
    )
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


def finish(
    trainer: Trainer,
    task: LightningModule,
    data: LightningDataModule,
    best: Selection,
    keeper: RunRecord,
    directory: Path,
) -> None:
    """Validate and test the best checkpoint, once, and complete the record."""
    best_checkpoint = trainer.checkpoint_callback
    assert isinstance(best_checkpoint, ModelCheckpoint)  # the first of `build_trainer`
    checkpoint = best_checkpoint.best_model_path
    epochs = trainer.current_epoch
    # It would put the last average in the place of the weights of the best checkpoint.
    trainer.callbacks = [  # type: ignore[attr-defined]
        c
        for c in trainer.callbacks  # type: ignore[attr-defined]
        if not isinstance(c, WeightAveraging)
    ]
    loggers = trainer.loggers
    metrics = {}
    for split, evaluate in (("val", trainer.validate), ("test", trainer.test)):
        trainer.loggers = loggers if split == "test" else []  # validation is in the curves already
        (logged,) = evaluate(
            task, datamodule=data, ckpt_path=checkpoint, weights_only=True, verbose=False
        )
        found: dict[str, Any] = {
            name.removeprefix(f"{split}/"): value for name, value in logged.items()
        }
        if (confusion := getattr(task, "confusion", None)) is not None:
            found["accuracy"] = accuracy_with_interval(int(confusion.trace()), int(confusion.sum()))
            found["class_accuracy"] = (confusion.diagonal() / confusion.sum(1)).tolist()
            found["confusion"] = confusion.tolist()
        metrics[split] = found
    keeper.update(
        status="finished",
        epochs=epochs,
        chosen_by=best.monitor,
        best_checkpoint=str(Path(checkpoint).resolve().relative_to(directory.resolve())),
        metrics=metrics,
    )


def quieten_lightning() -> None:
    """Drop what Lightning says on every run and what this project does on purpose."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    for message in (
        ".*is an instance of `nn.Module`.*",  # among the hyper-parameters it reloads alone
        ".*exists and is not empty. Previous log files.*",  # config.yaml is there first
        "Be aware that when using `ckpt_path`, callbacks.*",  # `finish` drops weight averaging
        ".*isinstance.treespec, LeafSpec.*",  # Lightning 2.6 on torch 2.15
        ".*is smaller than the logging interval.*",  # epochs are logged all the same
    ):
        warnings.filterwarnings("ignore", message=message)
