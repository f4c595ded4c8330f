"""What is shown of a run beside its numbers: configuration, pictures, samples, in every logger.

TensorBoard, Weights & Biases and MLflow show texts and pictures; a run keeps them as files too. Any
other logger of Lightning gets the numbers.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from torch import Tensor

from project.comparison.configurations import flat, short, without
from project.messages import warn
from project.provenance import without_home
from project.tracking.metrics_file import MetricsFile
from project.tracking.pictures import Picture, confusion_picture, mistakes_picture

# Of the configuration, what belongs beside results; the rest is in the text of it.
HYPER_PARAMETERS = (
    "seed_everything",
    "model.",
    "data.",
    "init_from",
    "trainer.max_epochs",
    "trainer.max_steps",
    "trainer.accumulate_grad_batches",
    "trainer.gradient_clip_val",
    "trainer.precision",
)
NO_PARAMETERS = {"root", "cache_dir", "num_workers", "eval_batch_size", "cleaning", "path"}


class Events(TensorBoardLogger):
    """TensorBoard's file in the run directory, without the copy of the configuration beside it."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, name="", version="", default_hp_metric=False)

    def save(self) -> None:
        self.experiment.flush()


def log_configuration(loggers: Iterable[Logger], config: str, record: dict[str, Any]) -> None:
    """Show what a run is, at its beginning.

    Args:
        config: Complete, as YAML.
        record: What `run.json` holds of it: command, commit, versions, hardware.
    """
    tree = without_home(yaml.safe_load(config))
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            text = yaml.safe_dump(without(tree, set()), sort_keys=False)
            log_text([logger], "configuration", text, 0)
        elif isinstance(logger, WandbLogger):
            logger.log_hyperparams({**tree, "run": record})
        else:
            logger.log_hyperparams(flat(tree))


def log_results(loggers: Iterable[Logger], config: str, metrics: dict[str, Any], step: int) -> None:
    """Show hyper-parameters beside what they led to, in TensorBoard's HPARAMS."""
    tree = without(yaml.safe_load(config), NO_PARAMETERS)
    parameters = {
        key.replace(".init_args", "").removesuffix(".class_path"): short(value)
        for key, value in flat(without_home(tree)).items()
        if key.startswith(HYPER_PARAMETERS) and isinstance(value, bool | int | float | str)
    }
    figures = {
        f"best/{split}_{name}": figure["value"] if isinstance(figure, dict) else figure
        for split, measured in metrics.items()
        for name, figure in measured.items()
        if isinstance(figure, dict | float)
    }
    with spared("the hyper-parameters"):
        for logger in loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(parameters, figures, step)
                logger.experiment.flush()  # the run may end before its writer has come to it


def log_outcomes(
    loggers: list[Logger], task: LightningModule, data: LightningDataModule, split: str, step: int
) -> None:
    """Show the confusion matrix of an image classifier and, of the validation, its mistakes.

    The mistakes in the test split are not shown: what is looked at is learnt from. Without a
    dashboard (`--trainer.logger false`) nothing is drawn: it takes longer than a small training.
    """
    if all(isinstance(logger, MetricsFile) for logger in loggers):
        return
    with spared(f"the pictures of the {split} split"):
        for name, picture in pictures_of(task, data, split):
            log_picture(loggers, f"{split}/{name}", picture, step)


@contextmanager
def spared(what: str) -> Iterator[None]:
    """Let nothing that goes wrong with what is only shown end a run; say what it was."""
    try:
        yield
    except Exception as error:
        warn(f"{what} cannot be shown: {error}")


def pictures_of(
    task: LightningModule, data: LightningDataModule, split: str
) -> Iterator[tuple[str, Picture]]:
    confusion, outcomes = getattr(task, "confusion", None), getattr(task, "outcomes", {})
    names = [str(name) for name in getattr(data, "class_names", ())]
    if not isinstance(confusion, Tensor) or confusion.shape != (len(names), len(names)):
        return
    yield "confusion", confusion_picture(confusion, names, f"{split} split")
    images = getattr(data, "splits", {}).get(split)
    if split != "val" or images is None or len(images.labels) != len(outcomes.get("labels", ())):
        return
    picture = mistakes_picture(
        images.images.cpu(),
        outcomes["labels"],
        outcomes["predicted"],
        outcomes["confidence"],
        names,
        f"{split} split",
    )
    if picture is not None:
        yield "mistakes", picture


def log_text(loggers: Iterable[Logger], name: str, text: str, step: int) -> None:
    """Show a text, as it is."""
    for logger in loggers:
        if isinstance(logger, MetricsFile):
            logger.log_text(text, step)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text(name, f"```\n{text}\n```", step)
        elif isinstance(logger, WandbLogger):
            logger.experiment.log({name: html(text), "trainer/global_step": step})
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_text(logger.run_id, text, f"{name}_{step}.txt")


def html(text: str) -> Any:
    """Return a text for W&B, which would keep a table of them in the user's home folder."""
    import wandb

    return wandb.Html(f"<pre>{escape(text)}</pre>", inject=False)


def log_picture(loggers: Iterable[Logger], name: str, picture: Picture, step: int) -> None:
    """Show a picture, uint8 (height, width, 3)."""
    for logger in loggers:
        if isinstance(logger, MetricsFile):
            logger.log_picture(name.replace("/", "_"), picture)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, picture, step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            logger.log_image(name, [picture], step)
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_image(logger.run_id, picture, f"{name}_{step}.png")
