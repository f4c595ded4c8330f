"""Our speed beside that of three peers: the same work, on this machine, in turn.

    DATA_DIR=FOLDER python tests/peers.py lightning-hydra-template CHECKOUT --python PYTHON
    DATA_DIR=FOLDER python tests/peers.py nanoGPT CHECKOUT
    DATA_DIR=FOLDER python tests/peers.py examples CHECKOUT

CHECKOUT is a clone of ashleve/lightning-hydra-template, karpathy/nanoGPT or pytorch/examples; none
of it is kept here. DATA_DIR holds MNIST/raw and tinyshakespeare/input.txt, as our commands lay
them. `--python` runs theirs, where it needs packages that ours does not (the first: hydra-core,
hydra-colorlog, hydra-optuna-sweeper, rootutils). Nothing is written but in a temporary folder.

Both are whole commands, ours is `python -m project.train`. What both have alike:

- lightning-hydra-template: its own network class (68 k parameters), Adam 1e-3, batches of 128,
  55,000 images to train on and 5,000 to validate on, float32, one epoch. An epoch is counted from
  the start of the training to its end, with validation and checkpoints, by one callback on both
  sides. Theirs ends there: its test of the best checkpoint fails since torch 2.6. Ours goes on to
  validate and test the best.
- nanoGPT: its setting for a CPU, 12 x 64 characters a step, 4 layers, 4 heads, 128 wide, as many
  parameters, AdamW, clipping, float32, without evaluation. Ours has rotary positions and normalised
  queries and keys on top. Time is that of steps after the first 100, logged every step, then every
  tenth.
- examples: mnist/main.py, its own network class, Adadelta, batches of 64, one epoch of 60,000
  images (ours: 59,990, the other 10 are its validation), a test of 10,000. Training is counted from
  the end of the first batch, in seconds per 60,000 images.

Ours updates by torch's fused kernels, as our configurations do, and computes in float32 as theirs
do; `--precision bf16-mixed` gives it what it chooses by itself on a CPU that is fast at that.

Theirs and ours alternate, and which is first alternates. Printed are medians, extremes and theirs /
ours: above 1, ours is faster. Both use the threads that torch takes (OMP_NUM_THREADS).
"""

import argparse
import gzip
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from lightning.pytorch import Callback

TESTS = Path(__file__).resolve().parent
REPOSITORY = TESTS.parent
WARMUP_STEPS = 100

Samples = dict[str, tuple[list[float], list[float]]]  # what is measured: (theirs, ours)


class Clock(Callback):
    """Notes when the training began, each batch and the training ended; for both sides."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.times = [time.perf_counter()]

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *batch: Any) -> None:
        self.times.append(time.perf_counter())

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self.times.append(time.perf_counter())
        Path(os.environ["PEERS_CLOCK"]).write_text(json.dumps(self.times))


class Outcome(NamedTuple):
    """What one command took.

    Attributes:
        seconds: From its start to its end.
        lines: What it printed, and when, in seconds.
        times: What its `Clock` noted.
    """

    seconds: float
    lines: list[tuple[float, str]]
    times: list[float]


def run(command: list[str], folder: Path, paths: list[Path], data: Path) -> Outcome:
    """Run a command in a folder with `paths` to import from; end this program where it fails."""
    clock = folder / "clock.json"
    clock.unlink(missing_ok=True)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "PYTHONUNBUFFERED": "1",
        "PEERS_CLOCK": str(clock),
        "DATA_DIR": str(data),
    }
    lines: list[tuple[float, str]] = []
    started = time.perf_counter()
    with subprocess.Popen(command, cwd=folder, env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            lines.append((time.perf_counter(), line))
    seconds = time.perf_counter() - started
    if process.returncode != 0:
        print("".join(line for _, line in lines[-30:]), file=sys.stderr)
        sys.exit(f"error: ended with {process.returncode}: {shlex.join(command)}")
    return Outcome(seconds, lines, json.loads(clock.read_text()) if clock.exists() else [])


def ours(arguments: str, paths: list[Path], options: argparse.Namespace, data: Path) -> Outcome:
    """Run `python -m project.train` with the arguments, which may name classes of `paths`."""
    command = [sys.executable, "-m", "project.train", *shlex.split(arguments)]
    command += ["--trainer.accelerator=cpu", f"--trainer.precision={options.precision}"]
    command += ["--trainer.callbacks+={class_path: peers.Clock}"]
    return run(command, options.scratch, [REPOSITORY, *paths, TESTS], data)


def lightning_hydra_template(options: argparse.Namespace) -> Samples:
    checkout = copy_of(options.checkout, "src/train.py", options.scratch)
    data = unpacked_mnist(options.data, options.scratch)

    def theirs() -> Outcome:
        arguments = f"paths.data_dir={data} trainer.max_epochs=1 test=False"
        clock = "+callbacks.clock._target_=peers.Clock"
        command = [options.python, "src/train.py", *arguments.split(), clock]
        return run(command, checkout, [TESTS], data)

    network = "src.models.components.simple_dense_net.SimpleDenseNet"
    arguments = (
        f"--config {REPOSITORY}/configs/mnist_mlp.yaml --experiment dense "
        f"--model.network={network} --model.network.lin1_size=64 --model.network.lin2_size=128 "
        "--model.network.lin3_size=64 --model.optimizer=Adam --model.optimizer.lr=1e-3 "
        "--model.optimizer.fused=true --model.scheduler=null --data.augment=null "
        f"--data.batch_size=128 --data.eval_batch_size=128 "
        f"--data.val_fraction={5_000 / 60_000} --trainer.max_epochs=1"
    )
    epochs: Samples = {"one epoch with validation, s": ([], []), "whole command, s": ([], [])}
    for side, outcome in in_turn(
        options.rounds, theirs, lambda: ours(arguments, [checkout], options, data)
    ):
        epochs["one epoch with validation, s"][side].append(outcome.times[-1] - outcome.times[0])
        epochs["whole command, s"][side].append(outcome.seconds)
    return epochs


def nanogpt(options: argparse.Namespace) -> Samples:
    checkout = copy_of(options.checkout, "train.py", options.scratch)
    text = checkout / "data/shakespeare_char"
    shutil.copy(options.data / "tinyshakespeare/input.txt", text)
    run([options.python, "prepare.py"], text, [], options.data)
    steps = options.steps
    settings = (
        f"--device=cpu --compile=False --eval_iters=1 --eval_interval={2 * steps} --block_size=64 "
        "--batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 --dropout=0.0 "
        f"--max_iters={steps} --lr_decay_iters={steps}"
    )
    arguments = (
        f"--config {REPOSITORY}/configs/shakespeare_transformer.yaml --model.network.num_heads=4 "
        "--model.network.feed_forward=relu2 --model.network.tied=true --model.optimizer=AdamW "
        "--model.optimizer.lr=1e-3 --model.optimizer.betas=[0.9,0.99] "
        "--model.optimizer.weight_decay=0.1 --model.optimizer.fused=true --model.sample_tokens=0 "
        f"--data.cache_dir={options.scratch}/tokens --trainer.max_steps={steps} "
        f"--trainer.val_check_interval={steps} --trainer.limit_val_batches=4"
    )
    found: Samples = {}
    for every in (1, 10):
        sides = found[f"a token, microseconds, logged every {every}"] = ([], [])
        command = [options.python, "train.py", "config/train_shakespeare_char.py"]
        command += [*settings.split(), f"--log_interval={every}"]
        logged = f"{arguments} --trainer.log_every_n_steps={every}"
        for side, outcome in in_turn(
            options.rounds,
            lambda command=command: run(command, checkout, [], options.data),
            lambda logged=logged: ours(logged, [], options, options.data),
        ):
            times = outcome.times[1:-1]
            if side == 0:
                marks = [(when, re.match(r"iter (\d+):", line)) for when, line in outcome.lines]
                times = [when for when, mark in marks if mark]
            warm = times[WARMUP_STEPS // (every if side == 0 else 1) :]
            num_steps = (len(warm) - 1) * (every if side == 0 else 1)
            sides[side].append((warm[-1] - warm[0]) / (num_steps * 12 * 64) * 1e6)
    return found


def examples(options: argparse.Namespace) -> Samples:
    checkout = copy_of(options.checkout / "mnist", "main.py", options.scratch)
    data = unpacked_mnist(options.data, options.scratch / "data")  # where theirs looks: ../data
    arguments = (
        f"--config {REPOSITORY}/configs/mnist_cnn.yaml --model.network=main.Net "
        "--model.optimizer=Adadelta --model.optimizer.lr=1.0 --model.scheduler=null "
        "--data.augment=null --data.batch_size=64 --data.eval_batch_size=1000 "
        "--data.val_fraction=1e-6 --trainer.max_epochs=1"
    )
    found: Samples = {"60,000 images of training, s": ([], []), "whole command, s": ([], [])}
    for side, outcome in in_turn(
        options.rounds,
        lambda: run([options.python, "main.py", "--epochs=1", "--no-accel"], checkout, [], data),
        lambda: ours(arguments, [checkout], options, data),
    ):
        times, batches = outcome.times[1:-1], 1
        if side == 0:
            times, batches = [when for when, line in outcome.lines if "Train Epoch" in line], 10
        seconds = (times[-1] - times[0]) / ((len(times) - 1) * batches * 64) * 60_000
        found["60,000 images of training, s"][side].append(seconds)
        found["whole command, s"][side].append(outcome.seconds)
    return found


def in_turn(rounds: int, theirs: Callable[[], Outcome], ours: Callable[[], Outcome]) -> Any:
    """Yield (0, an outcome of theirs) and (1, one of ours), first the one and then the other."""
    for number in range(rounds):
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            outcome = (theirs, ours)[side]()
            print(f"round {number + 1}: {('theirs', 'ours')[side]} in {outcome.seconds:.1f} s")
            yield side, outcome


def copy_of(checkout: Path, script: str, scratch: Path) -> Path:
    """Return a copy of a checkout to write in."""
    if not (checkout / script).is_file():
        sys.exit(f"error: {checkout} has no {script}; give a clone of the peer that is named")
    return Path(shutil.copytree(checkout, scratch / "theirs", symlinks=True))


def unpacked_mnist(root: Path, scratch: Path) -> Path:
    """Return a folder with the files of MNIST as torchvision leaves them, packed and unpacked."""
    raw = scratch / "MNIST/raw"
    raw.mkdir(parents=True)
    for packed in sorted((root / "MNIST/raw").glob("*.gz")):
        shutil.copy(packed, raw)
        (raw / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))
    if len(list(raw.iterdir())) != 8:
        sys.exit(f"error: {root / 'MNIST/raw'} has not the four .gz files of MNIST; set DATA_DIR")
    return scratch


def table(samples: Samples) -> str:
    lines = [f"{'':<44}{'median':>10}{'min':>10}{'max':>10}"]
    for name, sides in samples.items():
        for side, values in zip(("theirs", "ours"), sides, strict=True):
            figures = "".join(f"{f:>10.2f}" for f in (median(values), min(values), max(values)))
            lines.append(f"{name + ', ' + side:<44}{figures}")
        lines.append(f"  theirs / ours: {median(sides[0]) / median(sides[1]):.2f}")
    return "\n".join(lines)


PEERS = {
    "lightning-hydra-template": lightning_hydra_template,
    "nanoGPT": nanogpt,
    "examples": examples,
}


def main() -> None:
    form = argparse.ArgumentParser(description="Our speed beside a peer's; see the file's top.")
    form.add_argument("peer", choices=PEERS)
    form.add_argument("checkout", type=Path)
    form.add_argument("--python", default=sys.executable, help="interpreter for theirs")
    form.add_argument("--precision", default="32-true", help="of ours")
    form.add_argument("--rounds", type=int, default=5)
    form.add_argument("--steps", type=int, default=2000, help="of nanoGPT")
    options = form.parse_args()
    if "DATA_DIR" not in os.environ:
        sys.exit("error: DATA_DIR is not set; it names the folder with MNIST and tinyshakespeare")
    options.data = Path(os.environ["DATA_DIR"]).resolve()
    options.checkout = options.checkout.resolve()
    with tempfile.TemporaryDirectory() as scratch:
        options.scratch = Path(scratch)
        samples = PEERS[options.peer](options)
    print(f"\n{options.peer}, {options.rounds} rounds, {os.cpu_count()} CPUs\n{table(samples)}")


if __name__ == "__main__":
    main()
