"""Several processes as one run: how many there are, what each of them does and sees."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, DistributedSampler

from project.data.loader import SeededLoader
from project.hardware import usable_cores
from project.messages import UsageError, warn


def process_rank() -> int:
    """Return the rank of this process, read from the launcher's variables before a Trainer is."""
    return int(getattr(rank_zero_only, "rank", 0))


def launched() -> tuple[str, int, int] | None:
    """Return what started the processes of this run, how many on each node, and the nodes.

    None where Lightning is to start them, or there is one.

    Raises:
        UsageError: If SLURM has tasks for this job and this process is none of them.
    """
    if TorchElasticEnvironment.detect():
        return "torchrun", int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["GROUP_WORLD_SIZE"])
    if SLURMEnvironment.detect():
        nodes, tasks = int(os.environ.get("SLURM_NNODES", 1)), int(os.environ["SLURM_NTASKS"])
        if tasks > 1 and "SLURM_STEP_ID" not in os.environ:  # srun sets it
            raise UsageError(
                f"this job of SLURM has {tasks} tasks, but this process is none of them and would "
                "wait for the others; start it with srun, as in configs/slurm/train.sbatch"
            )
        return "srun", tasks // nodes, nodes
    return None


def as_launched(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings of a Trainer in which `auto` devices and 1 node are those that were started.

    Lightning (2.6.6) counts the devices that it sees, and lets each process train by itself.
    """
    if (found := launched()) is None:
        return settings
    _, processes, nodes = found
    settings = dict(settings)
    if settings["devices"] == "auto":
        settings["devices"] = processes
    if settings["num_nodes"] == 1:
        settings["num_nodes"] = nodes
    return settings


def check_launch(trainer: Trainer) -> None:
    """Stop where other processes were started than the Trainer is set to, or nodes will not come.

    Raises:
        UsageError: With both numbers, and what to set.
    """
    if (found := launched()) is None:
        if trainer.num_nodes > 1 and not {"MASTER_ADDR", "NODE_RANK"} <= os.environ.keys():
            raise UsageError(
                f"trainer.num_nodes {trainer.num_nodes}: no other node would ever come; start each "
                "with torchrun or srun, as in configs/trainer/torchrun.yaml, or set MASTER_ADDR, "
                "MASTER_PORT and NODE_RANK on each"
            )
        return
    launcher, processes, nodes = found
    if (processes, nodes) != (trainer.num_devices, trainer.num_nodes):
        raise UsageError(
            f"{launcher} started {processes} processes on each of {nodes} nodes, but the Trainer "
            f"is set to {trainer.num_devices} on each of {trainer.num_nodes}; set "
            f"--trainer.devices auto, --trainer.num_nodes {nodes} and --trainer.strategy ddp, as "
            "in configs/trainer/torchrun.yaml"
        )


@contextmanager
def shared_threads(trainer: Trainer, threads: int | None) -> Iterator[None]:
    """Give each process its part of the cores while inside: more threads than cores are slow.

    Args:
        threads: Of torch in each process; by default OMP_NUM_THREADS, or the cores of a node over
            its processes.
    """
    if threads is None and (trainer.num_devices == 1 or "OMP_NUM_THREADS" in os.environ):
        yield
        return
    before = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    threads = threads or cores_of_a_process(trainer.num_devices)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # for processes that Lightning starts
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        os.environ.pop("OMP_NUM_THREADS")
        if before[1] is not None:
            os.environ["OMP_NUM_THREADS"] = before[1]


def cores_of_a_process(processes: int) -> int:
    """Return the cores for each of the processes of a node; srun may have shared them out."""
    if "SLURM_CPUS_PER_TASK" in os.environ:
        return int(os.environ["SLURM_CPUS_PER_TASK"])
    cores = usable_cores()
    is_bound = SLURMEnvironment.detect() and cores < (os.cpu_count() or 1)
    return cores if is_bound else max(1, cores // processes)


def step_of_processes(trainer: Trainer, data: Any) -> str:
    """Return, for a person, how many rows an optimizer step takes, if that is not the batch size.

    And what that would make of a learning rate that was chosen for the batch size: the linear
    rule (Goyal et al. 2017, arXiv:1706.02677) for SGD, the square root for Adam (Malladi et al.
    2022, arXiv:2205.10287). Nothing is changed.
    """
    batch = getattr(data, "batch_size", None)
    factor = trainer.world_size * trainer.accumulate_grad_batches
    if factor == 1 or not isinstance(batch, int):
        return ""
    parts = [f"{batch} rows"]
    if trainer.world_size > 1:
        parts.append(f"{trainer.world_size} processes")
    if trainer.accumulate_grad_batches > 1:
        parts.append(f"{trainer.accumulate_grad_batches} batches")
    return (
        f"a step is {' x '.join(parts)} = {batch * factor:,}; a learning rate chosen for {batch} "
        f"would be x {factor} (SGD) or x {factor**0.5:.2f} (Adam), and is left as it is"
    )


def largest_of_all(trainer: Trainer, numbers: list[int]) -> list[int]:
    """Return the largest of each number over all processes."""
    if trainer.world_size == 1:
        return numbers
    mine = torch.tensor(numbers, device=trainer.strategy.root_device)
    largest: Tensor = trainer.strategy.reduce(mine, reduce_op="max")
    return largest.tolist()


def of_all_processes(trainer: Trainer, state: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the states of all processes, in the order of their ranks."""
    if trainer.world_size == 1:
        return [state]
    states: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(states, state)
    return states


class SharedData(Callback):
    """Says so where processes do not share a data set out, but each reads all of it.

    `SeededLoader` shares, and Lightning makes a DataLoader of single samples share; not one of a
    stream, nor one with batches of its own, nor any other object.
    """

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.check(trainer, "training", trainer.train_dataloader)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.check(trainer, "validation", trainer.val_dataloaders)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.check(trainer, "test", trainer.test_dataloaders)

    def check(self, trainer: Trainer, split: str, loaders: Any) -> None:
        if trainer.world_size == 1 or not trainer.is_global_zero or split in self.seen:
            return
        self.seen.add(split)
        for loader in tree_leaves(loaders):
            if not is_shared(loader, trainer.world_size):
                warn(
                    f"each of the {trainer.world_size} processes reads all of the {split} data: "
                    f"{type(loader).__name__} does not share them out; use SeededLoader "
                    "(project/data/loader.py), or a data set of single samples"
                )


def is_shared(loader: Any, world_size: int) -> bool:
    """Return whether a loader gives each process its own part, as far as can be seen."""
    if isinstance(loader, SeededLoader):
        return loader.world_size == world_size
    if not isinstance(loader, DataLoader):
        return False
    samplers = (loader.sampler, getattr(loader.batch_sampler, "sampler", None))
    return any(isinstance(sampler, DistributedSampler) for sampler in samplers)
