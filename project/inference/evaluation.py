"""What a checkpoint measures on a split, with the data inside it or with others."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar

from project.checkpoints.checkpoint_file import is_address, is_folder, read, sha256_of
from project.checkpoints.loading import (
    check_classes,
    checkpoint_of,
    imports_limited_to,
    rebuild,
)
from project.comparison.outcomes import load_outcomes, save_outcomes
from project.configuration import changed_data
from project.messages import UsageError
from project.provenance import provenance
from project.training.progress import progress_display
from project.whole_files import replace_json

DATA = LightningDataModule.CHECKPOINT_HYPER_PARAMS_KEY
PLACES = ("root", "cache_dir")  # of the data, which may be elsewhere on another machine


def evaluate(
    run: str,
    split: str | None = None,
    changes: Sequence[str] = (),
    device: str = "auto",
    precision: str | None = None,
    allowed: Sequence[str] = (),
) -> dict[str, Any]:
    """Measure a checkpoint, and return what `evaluation.json` holds of it.

    Args:
        run: A run directory, of which the best checkpoint is taken, a checkpoint, or its address.
        split: `test`, `val` or `train`; by default `test`, or `val` where there is no test.
        changes: Of the data in it, as `--data.KEY VALUE`.
        device: As Lightning names accelerators.
        precision: By default that of the training.
        allowed: Packages whose classes it may name, besides ours.

    Raises:
        UsageError: If there is nothing to evaluate, or the network does not suit the data.
    """
    path = checkpoint_of(run)
    content = read(path)
    notes = use_other_data(content, [*changes], [*allowed])
    task, data = rebuild(content, [*allowed])
    if data is None:
        raise UsageError(
            f"{str(path)!r} does not say which data it was trained on: it was not written by "
            "Trainer.fit(task, datamodule=...)"
        )
    trained_in = precision_of(content)
    used = precision or trained_in
    split, trainer = made_ready(task, data, split, device, used)
    metrics = measure(trainer, task, data, split)
    trained_on = content.get(type(data).__qualname__, {})
    described = data.describe() if hasattr(data, "describe") else {}
    is_same = same_examples(trained_on, described, split)
    is_repeated = bool(is_same and not changes and used == trained_in)
    return {
        **provenance(),
        "checkpoint": str(path),
        "checkpoint_sha256": sha256_of(path),
        "step": content["global_step"],
        "split": split,
        "precision": used,
        "metrics": {split: metrics},
        "data": described,
        "is_training_data": is_same,
        "notes": notes + differences(trained_on, described, split, is_same),
        "outcomes": getattr(task, "outcomes", {}) if is_repeated else {},
    }


def made_ready(
    task: Any, data: LightningDataModule, split: str | None, device: str, precision: str
) -> tuple[str, Trainer]:
    """Open the data; return the split to measure, and a Trainer that measures and keeps nothing.

    Raises:
        UsageError: If they cannot be opened, do not suit the network, or there is no such device.
    """
    display = progress_display()
    try:
        data.prepare_data()
        data.setup("validate" if split == "val" else "test")
        if hasattr(task, "check_data"):
            check_sizes(task, data)
        trainer = Trainer(
            accelerator=device,
            devices=1,
            precision=precision,  # type: ignore[arg-type]
            logger=False,
            callbacks=[display],
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=isinstance(display, ProgressBar),
        )
    except (ValueError, OSError, MisconfigurationException) as error:
        raise UsageError(str(error)) from error
    return split or ("test" if "test" in getattr(data, "splits", ("test",)) else "val"), trainer


def use_other_data(content: dict[str, Any], changes: list[str], allowed: list[str]) -> list[str]:
    """Change the data that a checkpoint names; return notes on what was not as it was.

    Folders that are not on this machine give way to `DATA_DIR`, else `data`.

    Raises:
        UsageError: If a change is not possible, or a class of another package is named.
    """
    saved = content.get(DATA, {})
    if "_class_path" not in saved:
        return []
    typed = [change.partition("=")[0] for change in changes]
    notes = []
    for key in PLACES:
        place = saved.get(key)
        if place and f"--data.{key}" not in typed and not Path(place).expanduser().is_dir():
            content[DATA] = saved = {**saved, key: None}
            notes.append(f"{key} {place!r} is not here: looked for below DATA_DIR, else data")
    if changes:
        check_classes(saved, allowed)  # before anything imports them
        with imports_limited_to(allowed):
            content[DATA] = changed_data(saved, changes)
    return notes


def precision_of(content: dict[str, Any]) -> str:
    """Return the precision that a checkpoint was trained in; full, where it does not say."""
    config = yaml.safe_load(content.get("config", "{}"))
    return str(config.get("trainer", {}).get("precision") or "32-true")


def measure(
    trainer: Trainer, task: LightningModule, data: LightningDataModule, split: str
) -> dict[str, Any]:
    """Return what a task measures on a split; figures with an interval stand for those without.

    Raises:
        UsageError: If the data have no such split.
    """
    if split == "train":
        if not hasattr(data, "evaluation_loader"):
            raise UsageError(f"{type(data).__name__} has no evaluation_loader: choose val or test")
        data.test_dataloader = partial(data.evaluation_loader, split)  # type: ignore[method-assign]
    if split not in (splits := getattr(data, "splits", (split,))):
        raise UsageError(f"the data have no {split} split; choose of {', '.join(splits)}")
    stage = trainer.validate if split == "val" else trainer.test
    logged = stage(task, datamodule=data, verbose=False)
    found = {name.split("/", 1)[-1]: v for part in logged for name, v in part.items()}
    return found | getattr(task, "measured", {})


def same_examples(trained_on: dict[str, Any], described: dict[str, Any], split: str) -> bool | None:
    """Return whether a split holds the examples that it held in training; None if unknown.

    A text is one file of tokens, which its splits share, and the sizes say where they end.
    """
    before, now = trained_on.get("sha256"), described.get("sha256")
    if not before or not now:
        return None
    if split in before:
        return bool(before[split] == now.get(split))
    return bool(before == now and trained_on.get("tokens") == described.get("tokens"))


def check_sizes(task: Any, data: LightningDataModule) -> None:
    """Stop where the data do not suit the network, whose sizes are what they are.

    Raises:
        UsageError: With the sizes.
    """
    try:
        task.check_data(data)
    except ValueError as error:
        reason = str(error).partition("; set")[0]
        raise UsageError(f"{reason}; a trained network keeps its sizes: give other data") from error


def differences(
    trained_on: dict[str, Any], described: dict[str, Any], split: str, is_same: bool | None
) -> list[str]:
    """Return what to know about data that are not those of the training."""
    notes = []
    before, now = trained_on.get("classes"), described.get("classes")
    if before and now and before != now:
        notes.append(f"class {now[0]!r} and on stand in the place of {before[0]!r} and on")
    if is_same is None:
        notes.append("whether these are the data of the training is not recorded")
    elif not is_same:
        notes.append("other data than in training, which may hold what the model was trained on")
    return notes


def place_of(run: str, output: Path | None) -> Path | None:
    """Return the file for evaluations: in the run directory or beside the checkpoint by default.

    None for the checkpoint at an address, which has no place here.
    """
    if output is not None or is_address(run):
        return output
    return folder_of(run) / "evaluation.json"


def folder_of(run: str) -> Path:
    return Path(run).parent if Path(run).is_file() or is_folder(run) else Path(run)


def keep(path: Path | None, run: str, found: dict[str, Any]) -> None:
    """Add an evaluation to the file.

    Outcomes go into a run directory, to be compared, where a run of an older version has none.
    """
    outcomes, split = found.pop("outcomes"), found["split"]
    if path is not None:
        replace_json(path, [*earlier(path), found])
    is_run = not is_address(run) and (folder_of(run) / "run.json").is_file()
    if is_run and outcomes and not load_outcomes(folder_of(run), split):
        save_outcomes(folder_of(run), split, outcomes)


def earlier(path: Path) -> list[Any]:
    """Return the evaluations that a file holds.

    Raises:
        UsageError: If it holds something else.
    """
    if not path.is_file():
        return []
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, list):
        raise UsageError(f"{str(path)!r} holds no evaluations; name another file: --output FILE")
    return found
