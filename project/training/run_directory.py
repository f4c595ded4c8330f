"""The directory of a run and the record in it: what was run, on what, with which result."""

import importlib.metadata
import json
import os
import platform
import secrets
import shlex
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

PACKAGES = ("torch", "lightning", "torchmetrics", "torchvision", "jsonargparse", "numpy")
MAX_PATCH_BYTES = 1_000_000


def create_run_directory(runs_dir: Path, experiment: str) -> Path:
    """Create and return `<runs_dir>/<date-time>_<experiment>_<suffix>`, which was not there.

    Processes that Lightning starts for the same run (`LOCAL_RANK` is set) get the directory of
    the process that started them.
    """
    if "LOCAL_RANK" in os.environ and "PROJECT_RUN_DIR" in os.environ:
        return Path(os.environ["PROJECT_RUN_DIR"])
    while True:
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        directory = runs_dir / f"{stamp}_{experiment}_{secrets.token_hex(2)}"
        if process_rank() != 0:
            return directory  # never written to: loggers and checkpoints are rank 0's
        try:
            directory.mkdir(parents=True)
        except FileExistsError:
            continue  # another job of the same second drew the same suffix
        os.environ["PROJECT_RUN_DIR"] = str(directory)
        return directory


def process_rank() -> int:
    """Return the rank of this process, read from the launcher's variables before a Trainer is."""
    return int(getattr(rank_zero_only, "rank", 0))


def provenance() -> dict[str, Any]:
    """Return the command line, the state of the code, versions and hardware."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()
    return {
        "command": shlex.join(["python", "-m", "project.train", *sys.argv[1:]]),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "git": {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain"))},
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in PACKAGES},
        },
        "hardware": {
            "device": device,
            "cpu_cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "platform": platform.platform(),
        },
    }


def cpu_name() -> str:
    return str(torch.cpu.get_capabilities().get("cpu_name") or platform.processor())


def git(*arguments: str, **variables: str) -> str | None:
    """Return what git prints for the repository of this file, or None where there is none."""
    try:
        answer = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.rstrip("\n")


def write_patch(directory: Path) -> None:
    """Write `code.patch`: what `git apply` needs to get from the commit to the code that ran.

    New files count too. The index and the objects go to a temporary folder, so the user's
    repository is not touched.
    """
    objects = git("rev-parse", "--path-format=absolute", "--git-path", "objects")
    top = git("rev-parse", "--show-toplevel")
    if not objects or not top:
        return
    with tempfile.TemporaryDirectory() as scratch:
        variables = {
            "GIT_INDEX_FILE": str(Path(scratch, "index")),
            "GIT_OBJECT_DIRECTORY": scratch,
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": objects,
        }
        git("read-tree", "HEAD", **variables)
        git("-C", top, "add", "--all", **variables)
        patch = git("-C", top, "diff", "--cached", "--binary", "HEAD", **variables)
    if patch:
        text = patch + "\n"
        if len(text) > MAX_PATCH_BYTES:
            text = f"# left out: the change has {len(text):,} characters\n"
        (directory / "code.patch").write_text(text)


class RunRecord(Callback):
    """Keeps `run.json` true while the run goes on, and measures the training throughput.

    Throughput counts training only: validation, checkpoints and start-up are left out of
    `images_per_second`, and are in `wall_seconds`.
    """

    def __init__(self, directory: Path, record: dict[str, Any]) -> None:
        self.path = directory / "run.json"
        self.record = record
        self.started = time.perf_counter()
        self.samples = 0
        self.training_seconds = 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        network = getattr(pl_module, "network", pl_module)
        self.record["parameters"] = sum(p.numel() for p in network.parameters())
        data = getattr(trainer, "datamodule", None)
        if data is not None and hasattr(data, "describe"):
            self.record["data"] = data.describe()
        self.update(status="running")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epoch_started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.samples += len(batch[0]) * trainer.world_size
        if batch_idx + 1 == trainer.num_training_batches:  # before validation starts
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.training_seconds += time.perf_counter() - self.epoch_started

    def update(self, **entries: Any) -> None:
        """Add entries and write the file, whole or not at all."""
        if process_rank() != 0:
            return
        self.record |= entries
        self.record["wall_seconds"] = round(time.perf_counter() - self.started, 2)
        if self.training_seconds:
            self.record["training_seconds"] = round(self.training_seconds, 2)
            self.record["images_per_second"] = round(self.samples / self.training_seconds, 1)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.record, indent=2, allow_nan=True) + "\n")
        temporary.replace(self.path)
