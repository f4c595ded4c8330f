"""What `--resume RUN` finds, and what it refuses before anything is changed."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from project.checkpoints.checkpoint_file import newest
from project.checkpoints.former_names import with_current_paths
from project.checkpoints.loading import check_classes
from project.checkpoints.run_files import shorter_files
from project.comparison.configurations import flat
from project.configuration import ProjectCLI, complete_config
from project.distributed.processes import process_rank
from project.messages import UsageError, warn
from project.provenance import code_patch, git, provenance

# Keys whose value may change and leave every number as it was.
HARMLESS = {
    "benchmark",
    "checkpoint_minutes",
    "experiment",
    "wandb",
    "devices",  # the number of processes is compared
    "enable_model_summary",
    "enable_progress_bar",
    "energy",
    "logger",
    "num_nodes",
    "num_workers",
    "runs_dir",
    "save_distributed_checkpoint",
    "speed",
}
# Keys that change the last bits of numbers, and nothing else.
ROUNDING = ("speed.compile", "speed.matmul", "trainer.benchmark")
PLACES = {"cache_dir", "path", "root", "test_path", "val_path"}  # of data whose hash is compared
LENGTHS = ("max_epochs", "max_steps")  # of a run, which may be raised
# Keys whose value is in the state that a checkpoint brings back, so that no force can change it.
IN_STATE = (
    "model.class_path",
    "model.init_args.network",
    "model.init_args.optimizer",
    "model.init_args.scheduler",
    "best",
    "freeze",
    "init_from",
    "trainer.callbacks",
)


@dataclass(frozen=True)
class StoppedRun:
    """A run that is to go on.

    Attributes:
        directory: Of the run.
        record: What its `run.json` holds.
        checkpoint: The newest whole one to resume from; None for a run that has none yet.
        config: The complete configuration, as YAML.
        point: What `ResumePoint` saved in it.
        global_step: Optimizer steps taken by then.
        fixed_length: Whether a schedule in it ends at a step that was given.
        is_extended: Whether it is to be longer than it was.
        is_changed: Whether the rest is another run than it would have been.
        is_forced: Whether it may be another one.
    """

    directory: Path
    record: dict[str, Any]
    checkpoint: Path | None
    config: str
    point: dict[str, Any]
    global_step: int
    fixed_length: bool
    is_extended: bool = False
    is_changed: bool = False
    is_forced: bool = False


@contextmanager
def sole_user(directory: Path, what: str = "run", seconds: float = 0) -> Iterator[None]:
    """Keep other processes from resuming a run that goes on; the lock ends with the process.

    Args:
        what: Is in the directory, a run or a sweep.
        seconds: To wait for another process to end.

    Raises:
        UsageError: If another process has it.
    """
    if process_rank() != 0:
        yield
        return
    lock = FileLock(directory / ".lock")
    try:
        lock.acquire(timeout=seconds)
    except Timeout as error:
        raise UsageError(
            f"the {what} {str(directory)!r} is still going on in another process; stop that one "
            f"first (or delete {str(directory / '.lock')!r}, if it ended with another machine)"
        ) from error
    try:
        yield
    finally:
        lock.release()


def run_directory_of(run: str) -> Path:
    """Return the directory of the run to resume.

    Raises:
        UsageError: If it is not one.
    """
    if not run:
        raise UsageError("--resume needs the directory of a run; see `ls runs`")
    directory = Path(run)
    if directory.suffix == ".ckpt":
        raise UsageError(f"--resume {run}: give the run directory, not a checkpoint in it")
    if not directory.is_dir():
        raise UsageError(f"--resume {run}: there is no such run directory; see `ls runs`")
    if not (directory / "config.yaml").is_file() or not (directory / "run.json").is_file():
        raise UsageError(
            f"--resume {run}: this is not a run, or one that stopped before it began: it has no "
            "config.yaml or no run.json"
        )
    return directory


def open_run(directory: Path, allowed: list[str]) -> StoppedRun:
    """Read a run and choose the checkpoint to go on from, with a warning for a damaged one.

    Args:
        allowed: Packages whose classes its configuration may name, besides ours.

    Raises:
        UsageError: If it cannot be gone on with.
    """
    record = read_record(directory)
    checkpoint, content, damage = newest(directory / "checkpoints", process_rank() == 0)
    if process_rank() == 0:
        for text in damage:
            warn(f"{text.partition(';')[0]}; going on from {checkpoint}, which is older")
    if checkpoint is None and (directory / "metrics.csv").is_file():
        raise UsageError(
            f"the run {str(directory)!r} has logged metrics but has no checkpoint to go on from; "
            f"repeat it: --config {directory / 'config.yaml'}"
        )
    point = content.get("resume", {})
    if shorter := shorter_files(directory, point.get("files", {})):
        raise UsageError(
            f"{', '.join(shorter)} of {str(directory)!r} have lost what was logged before the "
            f"checkpoint; put them back, or repeat the run: --config {directory / 'config.yaml'}"
        )
    config = content.get("config") or (directory / "config.yaml").read_text(encoding="utf-8")
    try:
        check_classes(with_current_paths(yaml.safe_load(config)), allowed)
    except (yaml.YAMLError, AttributeError, TypeError) as error:
        raise UsageError(f"the configuration in {checkpoint or directory} is damaged") from error
    schedules = content.get("lr_schedulers", [])
    return StoppedRun(
        directory,
        record,
        checkpoint,
        config,
        point,
        content.get("global_step", 0),
        fixed_length=any("total_steps" in schedule for schedule in schedules),
    )


def read_record(directory: Path) -> dict[str, Any]:
    """Return what `run.json` holds.

    Raises:
        UsageError: If it is damaged.
    """
    try:
        return json.loads((directory / "run.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(
            f"{str(directory / 'run.json')!r} is damaged ({error}); mend it, or repeat the run: "
            f"--config {directory / 'config.yaml'}"
        ) from error


def changes(run: StoppedRun, cli: ProjectCLI) -> dict[str, tuple[Any, Any]]:
    """Return {key: (value of the run, value now)} of the configuration.

    A key that is newer than the run had the value then that it has by default now.
    """
    before = flat(yaml.safe_load(completed(run.config, cli)))
    now = flat(yaml.safe_load(complete_config(cli)))
    keys = sorted(before.keys() | now.keys())
    return {k: (before.get(k), now.get(k)) for k in keys if before.get(k) != now.get(k)}


def completed(config: str, cli: ProjectCLI) -> str:
    """Return a configuration with the defaults of keys that it does not have."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "config.yaml")
        file.write_text(config, encoding="utf-8")
        return complete_config(cli.parsed(["--config", str(file)]))


def is_longer(key: str, before: Any, now: Any) -> bool:
    """Return whether a limit on the length of a run was raised; -1 and None are no limit."""
    if key.removeprefix("trainer.") not in LENGTHS:
        return False
    unlimited = (None, -1)
    return before not in unlimited and (now in unlimited or now > before)


def inexact(run: StoppedRun, changed: dict[str, tuple[Any, Any]], cli: ProjectCLI) -> list[str]:
    """Return what would make the rest of the run another one than it would have been."""
    reasons = []
    had = run.point.get("data")
    harmless = HARMLESS | (PLACES if had else set())
    for key, (before, now) in changed.items():
        is_harmless = not harmless.isdisjoint(key.split("."))
        if not is_harmless and not is_longer(key, before, now):
            reasons.append(f"{key.replace('.init_args', '')} was {before} and is {now}")
    if had and process_rank() == 0:  # which has opened the data
        has = cli.datamodule.describe()["sha256"]
        reasons += [
            f"the {name} data have SHA-256 {has.get(name, 'none')[:12]}... and had {digest[:12]}..."
            for name, digest in had.items()
            if digest != has.get(name)
        ]
    return reasons


def check_possible(run: StoppedRun, changed: dict[str, tuple[Any, Any]]) -> None:
    """Refuse what not even force can do, before anything is changed.

    Raises:
        UsageError: With the key and the reason.
    """
    for key, (before, now) in changed.items():
        if key.startswith(IN_STATE):
            raise UsageError(
                f"{key.replace('.init_args', '')} was {before} and is {now}, but what a run goes "
                "on with is in its checkpoint; begin another run with it"
            )
        if is_longer(key, before, now) and run.fixed_length:
            raise UsageError(
                f"{key} was {before} and is {now}, but the schedule of the run ends at a step that "
                "was fixed; begin a longer run, with WarmupDecay if it may be made longer later"
            )


def other_surroundings(run: StoppedRun) -> list[str]:
    """Return what is not as it was around the run, and may change the last bits of numbers."""
    now = provenance()
    found = []
    for part in ("versions", "hardware"):
        for name, value in now[part].items():
            before = run.record.get(part, {}).get(name)
            if before is not None and before != value and name != "platform":
                found.append(f"{name} was {before} and is {value}")
    return found


def code_has_changed(directory: Path, record: dict[str, Any]) -> bool:
    """Return whether the code is not what it was when a run was begun."""
    path = directory / "code.patch"
    before = path.read_bytes() if path.is_file() else b""
    is_same_commit = record.get("git", {}).get("commit") == git("rev-parse", "HEAD")
    return not is_same_commit or (code_patch() or b"") != before
