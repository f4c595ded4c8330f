"""Runs of several processes without the cost of their imports, or the hangs of forks with threads.

A server that has imported what a run needs, and has computed nothing, forks each process. What
torchrun or SLURM would set is set by hand; each process is on one thread.
"""

import multiprocessing
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

LIMIT_SECONDS = 150.0
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["project.training.command"])


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def torchrun(processes: int, nodes: int = 1) -> list[dict[str, str]]:
    """Return the variables that torchrun gives each of `processes`, spread over `nodes`."""
    port, local = free_port(), processes // nodes
    return [
        {
            "RANK": str(rank), "LOCAL_RANK": str(rank % local), "GROUP_RANK": str(rank // local),
            "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(local),
            "GROUP_WORLD_SIZE": str(nodes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            "TORCHELASTIC_RUN_ID": "test",
        }
        for rank in range(processes)
    ]  # fmt: skip


def train(
    arguments: list[str],
    folder: Path,
    processes: list[dict[str, str]],
    sigterm: tuple[int, int] | None = None,
) -> list[int]:
    """Run `project.train` in a folder, once for each set of variables; return the exit codes.

    What they print is in `<folder>/<rank>.txt`. When one is gone by a signal, or time is up, the
    others are killed.

    Args:
        sigterm: (rank, step) of the process that gets this signal within that training step.
    """
    folder.mkdir(parents=True, exist_ok=True)
    started = []
    for rank, variables in enumerate(processes):
        at = sigterm[1] if sigterm and sigterm[0] == rank else None
        process = FORKS.Process(target=one, args=(arguments, folder, rank, variables, at))
        process.start()
        started.append(process)
    return finish(started)


def one(
    arguments: list[str], folder: Path, rank: int, variables: Mapping[str, str], at: int | None
) -> None:
    """Be one of the processes."""
    import torch
    from lightning.pytorch.utilities import rank_zero_only

    from project.tasks.image_classification import ImageClassification
    from project.training.command import command

    os.chdir(folder)
    log = os.open(f"{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for name in ("DATA_DIR", "PROJECT_RUN_DIR"):
        os.environ.pop(name, None)
    os.environ |= {"OMP_NUM_THREADS": "1"} | variables
    rank_zero_only.rank = rank  # type: ignore[attr-defined] # Lightning read it at its import
    torch.set_num_threads(1)
    if at is not None:
        ImageClassification.training_step = signalled(ImageClassification.training_step, at)
    code = 1
    try:
        code = command(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def signalled(step: Any, at: int) -> Any:
    def training_step(self: Any, batch: Any, batch_idx: int) -> Any:
        if self.global_step == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch, batch_idx)

    return training_step


def finish(processes: list[BaseProcess]) -> list[int]:
    """Wait for processes; return their exit codes, negative for a signal."""
    started = time.monotonic()
    while any(process.exitcode is None for process in processes):
        is_late = time.monotonic() - started > LIMIT_SECONDS
        if is_late or any((process.exitcode or 0) < 0 for process in processes):
            for process in processes:
                process.kill()
        time.sleep(0.01)
    return [process.exitcode or 0 for process in processes]
