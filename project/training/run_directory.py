"""The directory of a run and the record in it: what was run, on what, with which result."""

import os
import secrets
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from project.costs.energy import EnergyMeter
from project.costs.throughput import Throughput
from project.distributed.processes import process_rank
from project.messages import UsageError
from project.optimization.freezing import trainable_parameters
from project.whole_files import replace_json


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
        replace_json(self.path, self.record)
