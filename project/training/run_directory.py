"""The directory of a run and the record in it: what was run, on what, with which result."""

import ast
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import secrets
import shlex
import subprocess
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from project.checkpoints.whole_files import replace_text
from project.costs.energy import EnergyMeter
from project.costs.throughput import Throughput
from project.messages import UsageError
from project.optimization.freezing import trainable_parameters
from project.training.precision import cpu_capabilities

PACKAGES = ("torch", "lightning", "torchmetrics", "torchvision", "jsonargparse", "numpy")
MAX_PATCH_BYTES = 1_000_000
CODE_OF_A_RUN = ("data", "models", "tasks", "optimization", "training")  # folders of the package


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
        except OSError as error:
            raise UsageError(
                f"no run can be created in {str(runs_dir)!r}: {os.strerror(error.errno or 0)}; set "
                "--runs_dir DIR"
            ) from error
        os.environ["PROJECT_RUN_DIR"] = str(directory)
        return directory


def process_rank() -> int:
    """Return the rank of this process, read from the launcher's variables before a Trainer is."""
    return int(getattr(rank_zero_only, "rank", 0))


def provenance(arguments: list[str]) -> dict[str, Any]:
    """Return the command line, the state of the code, versions and hardware."""
    return {
        "command": typed_command("train", arguments),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "git": {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain"))},
        "code_sha256": code_hash(),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in PACKAGES},
        },
        "hardware": {
            "cpu": cpu_name(),
            "cpu_cores": os.cpu_count(),
            "platform": platform.platform(),
        },
    }


def typed_command(name: str, arguments: list[str]) -> str:
    """Return what was typed, with $HOME for the home folder, which names its owner."""
    words = []
    for word in arguments:
        parts = [shlex.quote(part) if part else "" for part in re.split(home_folder(), word)]
        words.append('"$HOME"'.join(parts) or "''")
    return " ".join(["python", "-m", f"project.{name}", *words])


def home_folder() -> str:
    """Return a regular expression for the home folder, alone or before what lies in it."""
    home = str(Path.home())
    return rf"(?<![\w/.~-]){re.escape(home)}(?=/|$)" if len(home) > 1 else "(?!)"


def code_hash() -> str:
    """Return a hash of this package's code, which comments, docstrings and layout do not change.

    Nor does another name of the package. Two runs of the same configuration and hash are the same
    recipe. Code elsewhere is not in it.
    """
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    for part in CODE_OF_A_RUN:
        for path in sorted((package / part).rglob("*.py")):
            tree = ast.parse(path.read_bytes())
            for node in ast.walk(tree):
                body = getattr(node, "body", None)
                if isinstance(body, list) and body and is_text(body[0]):
                    del body[0]
            code = re.sub(rf"(?<![\w.]){package.name}\.", "", ast.dump(tree))
            digest.update(f"{path.relative_to(package)} {code}".encode())
    return digest.hexdigest()


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str)


def cpu_name() -> str:
    return str(cpu_capabilities().get("cpu_name") or platform.processor() or platform.machine())


def git(*arguments: str, **variables: str) -> str | None:
    """Return what git prints for the repository of this file, or None where there is none."""
    answer = git_bytes(*arguments, **variables)
    return None if answer is None else answer.decode(errors="replace").rstrip("\n")


def git_bytes(*arguments: str, **variables: str) -> bytes | None:
    try:
        answer = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            env={**os.environ, **variables},
            capture_output=True,
            check=True,
            timeout=30,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout


def code_patch() -> bytes | None:
    """Return what `git apply` needs to get from the commit to the code that runs; None without git.

    New files count too. The index and the objects go to a temporary folder, so the user's
    repository is not touched.
    """
    objects = git("rev-parse", "--path-format=absolute", "--git-path", "objects")
    top = git("rev-parse", "--show-toplevel")
    if not objects or not top:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        variables = {
            "GIT_INDEX_FILE": str(Path(scratch, "index")),
            "GIT_OBJECT_DIRECTORY": scratch,
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": objects,
        }
        git("read-tree", "HEAD", **variables)
        git("-C", top, "add", "--all", **variables)
        patch = git_bytes("-C", top, "diff", "--cached", "--binary", "HEAD", **variables)
    if patch is None:
        return b"# not recorded: git did not answer within 30 s\n"
    if len(patch) > MAX_PATCH_BYTES:
        return f"# not recorded: the change has {len(patch):,} bytes\n".encode()
    return patch


def write_patch(directory: Path, name: str = "code.patch") -> None:
    """Write `code_patch`, where there is a change."""
    if patch := code_patch():
        (directory / name).write_bytes(patch)


class RunRecord(Callback):
    """Keeps `run.json` true while the run goes on.

    `wall_seconds` counts from the creation of the run to the last update; a resumed run goes on
    from that of its checkpoint.

    Args:
        directory: Of the run.
        record: What it holds from the start.
        throughput: Measures the training.
        energy: Measures what that takes.
    """

    def __init__(
        self, directory: Path, record: dict[str, Any], throughput: Throughput, energy: EnergyMeter
    ) -> None:
        self.path = directory / "run.json"
        self.record = record
        self.throughput, self.energy = throughput, energy
        self.started = time.perf_counter()
        self.wall_seconds_before = 0.0  # of earlier sessions

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        network = getattr(pl_module, "network", pl_module)
        self.record["parameters"] = sum(p.numel() for p in network.parameters())
        self.record["trainable_parameters"] = trainable_parameters(network)
        hardware = self.record["hardware"]
        device = trainer.strategy.root_device
        if device.type == "cuda":
            hardware["gpu"] = torch.cuda.get_device_name(device)
        hardware |= {"processes": trainer.world_size, "torch_threads": torch.get_num_threads()}
        data = getattr(trainer, "datamodule", None)
        if data is not None and hasattr(data, "describe"):
            self.record["data"] = data.describe()
        self.update(status="running")

    def state_dict(self) -> dict[str, Any]:
        return {"wall_seconds": self.wall_seconds()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not self.throughput.has_ended:  # Lightning also hands over that of the best checkpoint
            self.wall_seconds_before = state_dict["wall_seconds"]

    def wall_seconds(self) -> float:
        return self.wall_seconds_before + time.perf_counter() - self.started

    def update(self, **entries: Any) -> None:
        """Add entries and write the file, whole or not at all."""
        if process_rank() != 0:
            return
        self.record |= entries | self.throughput.record() | self.energy.record()
        self.record["wall_seconds"] = round(self.wall_seconds(), 2)
        text = json.dumps(finite(self.record), indent=2, allow_nan=False) + "\n"
        replace_text(self.path, text)


def finite(value: Any) -> Any:
    """Return `value` with None where a number is not finite: JSON has no NaN."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
