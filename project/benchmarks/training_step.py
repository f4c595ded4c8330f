"""A training step of a whole run, as `project.train` does it, against a hand-written loop.

The run has everything that a run has: resume point, seeded steps, loggers, progress bar. Both have
the same network, data, optimizer, precision and clipping, from the same configuration.
"""

import io
import time
from contextlib import redirect_stderr, redirect_stdout, suppress
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import PassThroughProfiler

from project.benchmarks.hand_written import configured, device_of, endless, hand_written
from project.benchmarks.measuring import (
    Figures,
    interleaved,
    ratios,
    seconds_each,
    synchronize,
)
from project.configuration import CONFIGS
from project.costs.throughput import Throughput
from project.messages import RunPruned
from project.training.run import run

WARM_UP = 5  # steps that are not counted
NEVER = "1000000"
MNIST_LIKE = ["--data.dataset", "project.benchmarks.synthetic.RandomImages"]
BYTES = ["--data.corpus", "PythonDocs", "--data.tokenizer", "ByteTokenizer"]
# What is measured: arguments of project.train, and the steps of a window.
CASES: dict[str, tuple[list[str], int]] = {
    "MLP, batch 256": (["mnist_mlp.yaml", *MNIST_LIKE, "--data.batch_size", "256"], 80),
    "CNN, batch 128": (["mnist_cnn.yaml", *MNIST_LIKE], 12),
    "LSTM, batch 128": (["mnist_rnn.yaml", *MNIST_LIKE], 20),
    "GPT, batch 12 x 64": (
        ["shakespeare_transformer.yaml", *BYTES, "--model.network.vocab_size", "256"],
        25,
    ),
}


def trainer(
    rounds: int = 3, share: float = 1.0, cases: dict[str, tuple[list[str], int]] = CASES
) -> list[Figures]:
    """Compare seconds per step; `share` scales the steps of a window."""
    found: list[Figures] = []
    costs: list[Figures] = []
    for name, ((config, *changes), steps) in cases.items():
        arguments = ["--config", str(CONFIGS / config), *changes]
        steps = max(2, int(share * steps))
        # Windows deletes no file that is mapped into memory, nor one of a logger that is open.
        with TemporaryDirectory(ignore_cleanup_errors=True) as cache:
            if "--data.corpus" in changes:
                arguments += ["--data.cache_dir", cache]
            measures = {
                "hand-written loop": partial(loop_step, arguments, steps),
                "Trainer": partial(trainer_step, arguments, steps),
            }
            samples = interleaved(rounds, measures)
            if not costs:  # of the first, whose steps are the shortest
                costs.append(measuring_cost(name, arguments, 4 * rounds, steps))
        quotient = ratios(samples, {"Trainer / loop": ("Trainer", "hand-written loop")})
        what = f"a training step of {config.removesuffix('.yaml')} ({name})"
        found.append(Figures(what, "seconds", samples, quotient))
    return [*found, *costs]


def measuring_cost(name: str, arguments: list[str], rounds: int, steps: int) -> Figures:
    """Compare steps of one run with and without what measures its speed."""
    windows = WithAndWithout(rounds, steps)
    train(arguments, windows)
    row, without = windows.samples
    quotient = ratios(windows.samples, {"with / without": (row, without)})
    what = f"what a run's own measuring costs ({name})"
    return Figures(what, "seconds", windows.samples, quotient)


class StepTimer(Callback):
    """Times `steps` batches after the warm-up and then ends the run.

    Attributes:
        seconds: Per batch, from the start of one to the start of the next; of the window.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.count = 0
        self.seconds = 0.0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.count == WARM_UP:
            synchronize()
            self.started = time.perf_counter()
        if self.count == WARM_UP + self.steps:
            synchronize()
            self.seconds = (time.perf_counter() - self.started) / self.steps
            raise RunPruned("measured")
        self.count += 1


class WithAndWithout(Callback):
    """Times windows of `steps` batches with `Throughput` and its profiler, and without, in turn.

    Attributes:
        samples: Seconds per batch of each window.
    """

    def __init__(self, rounds: int, steps: int) -> None:
        self.rounds, self.steps = rounds, steps
        self.count = -WARM_UP
        self.started = 0.0
        self.samples: dict[str, list[float]] = {"Throughput and Stopwatch": [], "neither": []}

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        window, step = divmod(self.count, self.steps)
        self.count += 1
        if window < 0 or step > 0:
            return
        synchronize()
        names = list(self.samples)
        if window == 0:
            self.profilers = [trainer.profiler, PassThroughProfiler()]  # type: ignore[attr-defined]
            everything = trainer.callbacks  # type: ignore[attr-defined]
            rest = [callback for callback in everything if not isinstance(callback, Throughput)]
            self.callbacks = [everything, rest]
        else:
            seconds = time.perf_counter() - self.started
            self.samples[names[(window - 1) % 2]].append(seconds / self.steps)
        if window == 2 * self.rounds:
            raise RunPruned("measured")
        trainer.profiler = self.profilers[window % 2]  # type: ignore[attr-defined]
        trainer.callbacks = self.callbacks[window % 2]  # type: ignore[attr-defined]
        self.started = time.perf_counter()


class Terminal(io.StringIO):
    """Takes what a run shows, as a terminal would, so that it draws its bar."""

    def isatty(self) -> bool:
        return True


def trainer_step(arguments: list[str], steps: int) -> float:
    """Return the seconds of a step of the run that `project.train` would do."""
    timer = StepTimer(steps)
    train(arguments, timer)
    return timer.seconds


def train(arguments: list[str], timer: Callback) -> None:
    """Begin the run that `project.train` would do, until `timer` ends it; nothing is kept."""
    place = TemporaryDirectory(ignore_cleanup_errors=True)
    with place as folder, redirect_stdout(Terminal()), redirect_stderr(Terminal()):
        changes = ["--runs_dir", folder, "--trainer.max_epochs", "-1", "--trainer.max_steps", NEVER]
        changes += ["--trainer.check_val_every_n_epoch", "null"]
        changes += ["--trainer.val_check_interval", NEVER]
        with suppress(RunPruned):
            run(configured([*arguments, *changes]), [], callbacks=[timer], measure_test=False)


def loop_step(arguments: list[str], steps: int) -> float:
    """Return the seconds of a step of a hand-written loop over the same batches."""
    cli = configured(arguments)
    step = hand_written(cli)
    batches = endless(cli.datamodule, device_of(cli))
    return seconds_each(lambda: step(*next(batches)[:2]), steps, WARM_UP)
