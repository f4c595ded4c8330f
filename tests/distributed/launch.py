"""Runs of several processes without their cost: forks of this process, so that nothing is imported.

What torchrun or SLURM would set is set by hand; each process is on one thread.
"""

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_only

from project.training.command import command

LIMIT_SECONDS = 150.0


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


def train(arguments: list[str], folder: Path, processes: list[dict[str, str]]) -> list[int]:
    """Run `project.train` in a folder, once for each set of variables; return the exit codes.

    What they print is in `<folder>/<rank>.txt`. When one is gone by a signal, or time is up, the
    others are killed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return finish([start(arguments, folder, rank, own) for rank, own in enumerate(processes)])


def start(arguments: list[str], folder: Path, rank: int, variables: Mapping[str, str]) -> int:
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    code = 1
    try:
        os.chdir(folder)
        log = os.open(f"{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        os.environ |= variables
        rank_zero_only.rank = rank  # type: ignore[attr-defined] # Lightning read it at its import
        torch.set_num_threads(1)
        code = command(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def finish(pids: list[int]) -> list[int]:
    """Wait for processes; return their exit codes, negative for a signal."""
    started, codes = time.monotonic(), dict[int, int | None].fromkeys(pids)
    while None in codes.values():
        running = [pid for pid, code in codes.items() if code is None]
        for pid in running:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                codes[pid] = os.waitstatus_to_exitcode(status)
        is_late = time.monotonic() - started > LIMIT_SECONDS
        if is_late or any(code is not None and code < 0 for code in codes.values()):
            for pid in [pid for pid in running if codes[pid] is None]:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)
    return [code for code in codes.values() if code is not None]
