"""Several processes that train together: what is left of the speed of each.

Run as a script, this file is one of the processes. They are measured inside, after all imports. A
process has one GPU, or one thread on a CPU.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed
from torch.nn.parallel import DistributedDataParallel

from project.benchmarks.measuring import Figures, Samples, synchronize
from project.hardware import usable_cores
from project.messages import RunError
from project.models.cnn import CNN

BATCH_SIZE = 64  # of a process (weak scaling), of all together (strong)
TIMEOUT_SECONDS = 300


def processes(rounds: int = 3, steps: int = 12, most: int = 8) -> list[Figures]:
    """Compare images per second of 1, 2, 4 ... processes, as many as GPUs or cores (at most 8)."""
    available = torch.cuda.device_count() or usable_cores()
    counts = [2**i for i in range(min(available, most).bit_length())]
    measured = {count: together(count, rounds, steps) for count in counts}
    samples: Samples = {}
    efficiency: Samples = {}
    for kind, meaning in (("weak", "64 images each"), ("strong", "64 images in all")):
        for count in counts:
            batch = BATCH_SIZE * count if kind == "weak" else BATCH_SIZE // count * count
            row = f"{count} x, {meaning}"
            samples[row] = [batch / seconds for seconds in measured[count][kind]]
            if count > 1:
                alone = samples[f"1 x, {meaning}"]
                pairs = zip(samples[row], alone, strict=True)
                efficiency[f"{kind} scaling to {count}, percent"] = [
                    100 * all_ / (count * one) for all_, one in pairs
                ]
    what = "a CNN (width 16, 28 x 28) in processes with DDP, one thread or GPU each"
    notes = ["numbers of processes were measured one after the other, not in turn"]
    if len(counts) == 1:
        notes = ["there is one core or GPU here, so there is nothing to compare"]
    return [Figures(what, "images per second, of all", samples, efficiency, notes)]


def together(count: int, rounds: int, steps: int) -> dict[str, list[float]]:
    """Start `count` processes; return {"weak", "strong"}: seconds per step of each round.

    Raises:
        RunError: If one fails, or they take too long.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", __name__, Path(folder, "meet").as_uri(), str(count)]
        root = str(Path(__file__).parents[2])
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
        members = []
        for rank in range(count):
            arguments = [*command, str(rank), str(rounds), str(steps)]
            with Path(folder, f"{rank}.txt").open("wb") as log:
                members.append(subprocess.Popen(arguments, env=environment, stdout=log, stderr=log))
        try:
            deadline = time.monotonic() + TIMEOUT_SECONDS
            # Where one has failed, the others would wait for it.
            while None in (codes := [member.poll() for member in members]) and not any(codes):
                if time.monotonic() > deadline:
                    raise RunError(
                        f"{count} processes were not done in {TIMEOUT_SECONDS} s, and were ended"
                    )
                time.sleep(0.05)
        finally:
            for member in members:
                member.kill()
                member.wait()
        logs = [Path(folder, f"{rank}.txt").read_bytes() for rank in range(count)]
        lines = [log.decode(errors="replace").splitlines() for log in logs]
        if any(codes):
            failed = next(rank for rank, code in enumerate(codes) if code)
            last = lines[failed][-1] if lines[failed] else f"exit code {codes[failed]}"
            raise RunError(f"process {failed} of {count} failed: {last}")
        return json.loads(lines[0][-1])


def member(meeting: str, count: int, rank: int, rounds: int, steps: int) -> None:
    """Train beside the others and print, on the first process, the seconds per step as JSON."""
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(rank)
    device = torch.device("cuda", rank) if on_gpu else torch.device("cpu")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.distributed.init_process_group(
        "nccl" if on_gpu else "gloo", init_method=meeting, rank=rank, world_size=count
    )
    network = DistributedDataParallel(CNN(width=16).to(device))
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    sizes = {"weak": BATCH_SIZE, "strong": BATCH_SIZE // count}
    seconds: dict[str, list[float]] = {kind: [] for kind in sizes}
    for round_ in range(rounds + 1):
        for kind, size in sizes.items():
            images = torch.rand(size, 1, 28, 28, device=device)
            labels = torch.arange(size, device=device) % 10
            synchronize()
            torch.distributed.barrier()
            started = time.perf_counter()
            for _ in range(steps):
                loss = torch.nn.functional.cross_entropy(network(images), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            synchronize()
            torch.distributed.barrier()
            if round_ > 0:  # the first is the warm-up
                seconds[kind].append((time.perf_counter() - started) / steps)
    torch.distributed.destroy_process_group()
    if rank == 0:
        print(json.dumps(seconds))


if __name__ == "__main__":
    meeting, *numbers = sys.argv[1:]
    member(meeting, *map(int, numbers))
