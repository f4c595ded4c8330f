"""What a checkpoint measures on a split, with the data inside it or with others."""

import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar

from project.configuration import changed_data
from project.messages import UsageError
from project.training.checkpoint import checkpoint_of, rebuild
from project.training.checkpoint_file import is_address, read, sha256_of
from project.training.outcomes import save_outcomes
from project.training.progress import progress_display
from project.training.run_directory import finite, provenance
from project.training.whole_files import replace_text

DATA = LightningDataModule.CHECKPOINT_HYPER_PARAMS_KEY
PLACES = ("root", "cache_dir")  # of the data, which may be elsewhere on another machine


def evaluate(
    run: str,
    split: str | None = None,
    changes: list[str] | None = None,
    device: str = "auto",
    precision: str | None = None,
    allowed: list[str] | None = None,
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
    notes = use_other_data(content, changes or [])
    task, data = rebuild(content, allowed or [])
    if data is None:
        raise UsageError(
            f"{str(path)!r} does not say which data it was trained on: it was not written by "
            "Trainer.fit(task, datamodule=...)"
        )
    try:
        data.prepare_data()
        data.setup("validate" if split == "val" else "test")
        split = split or ("test" if "test" in getattr(data, "splits", ("test",)) else "val")
        if hasattr(task, "check_data"):
            check_sizes(task, data)
        precision = precision or precision_of(content)
        metrics = measure(task, data, split, device, precision)
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error
    trained_on = content.get(type(data).__qualname__, {})
    described = data.describe() if hasattr(data, "describe") else {}
    notes += differences(trained_on, described, split)
    origin = provenance([])
    del origin["command"]
    return {
        **origin,
        "checkpoint": str(path),
        "checkpoint_sha256": sha256_of(path),
        "step": content["global_step"],
        "split": split,
        "precision": precision,
        "metrics": {split: metrics},
        "data": described,
        "is_training_data": described.get("sha256") == trained_on.get("sha256"),
        "notes": notes,
        "outcomes": getattr(task, "outcomes", {}),
    }


def use_other_data(content: dict[str, Any], changes: list[str]) -> list[str]:
    """Change the data that a checkpoint names; return notes on what was not as it was.

    Folders that are not on this machine give way to `DATA_DIR`, else `data`.
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
        content[DATA] = changed_data(saved, changes)
    return notes


def precision_of(content: dict[str, Any]) -> str:
    """Return the precision that a checkpoint was trained in; full, where it does not say."""
    config = yaml.safe_load(content.get("config", "{}"))
    return str(config.get("trainer", {}).get("precision") or "32-true")


def measure(
    task: LightningModule, data: LightningDataModule, split: str, device: str, precision: str
) -> dict[str, Any]:
    """Return what a task measures on a split; figures with an interval stand for those without."""
    if split == "train":
        if not hasattr(data, "evaluation_loader"):
            raise UsageError(f"{type(data).__name__} has no evaluation_loader: choose val or test")
        data.test_dataloader = partial(data.evaluation_loader, split)  # type: ignore[method-assign]
    display = progress_display()
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(
            accelerator=device,
            devices=1,
            precision=precision,  # type: ignore[arg-type]
            logger=False,
            callbacks=[display],
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=isinstance(display, ProgressBar),
            default_root_dir=scratch,
        )
        stage = trainer.validate if split == "val" else trainer.test
        logged = stage(task, datamodule=data, verbose=False)
    found = {name.split("/", 1)[-1]: v for part in logged for name, v in part.items()}
    return found | getattr(task, "measured", {})


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


def differences(trained_on: dict[str, Any], described: dict[str, Any], split: str) -> list[str]:
    """Return what to know about data that are not those of the training."""
    notes = []
    before, now = trained_on.get("classes"), described.get("classes")
    if before and now and before != now:
        notes.append(f"class {now[0]!r} and on stand in the place of {before[0]!r} and on")
    if "sha256" in trained_on and trained_on["sha256"] != described.get("sha256"):
        notes.append("other data than in training")
        if split != "test":
            notes.append(f"this {split} split may hold what the model was trained on")
    return notes


def keep(run: str, output: Path | None, found: dict[str, Any]) -> Path | None:
    """Add an evaluation to `evaluation.json`; return its path, None if there is no place for it.

    Outcomes on the data of the training go beside it, in a run directory, to be compared.

    Args:
        output: The file; by default in the run directory, or beside the checkpoint.
    """
    outcomes = found.pop("outcomes")
    directory = None if is_address(run) else Path(run)
    if directory is not None and directory.is_file():
        directory = directory.parent
    if output is None and directory is None:
        return None
    path = output or directory / "evaluation.json"  # type: ignore[operator]
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    replace_text(path, json.dumps([*earlier, finite(found)], indent=2, allow_nan=False) + "\n")
    if directory is not None and (directory / "run.json").is_file() and found["is_training_data"]:
        save_outcomes(directory, found["split"], outcomes)
    return path
