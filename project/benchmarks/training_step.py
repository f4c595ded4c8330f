"""A training step of a whole run, as `project.train` does it, against a hand-written loop.

The run has everything that a run has: resume point, seeded steps, loggers, progress bar. Both have
the same network, data, optimizer, precision and clipping, from the same configuration.
"""

import io
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import PassThroughProfiler
from torch import Tensor, nn
from torch.optim import Optimizer

from project.benchmarks.measuring import (
    Figures,
    device,
    interleaved,
    ratios,
    seconds_each,
    synchronize,
)
from project.configuration import CONFIGS, ProjectCLI
from project.costs.throughput import Throughput
from project.data.image_sets import LabelledImages
from project.data.images import ImageData
from project.data.text import TextData
from project.messages import RunPruned, UsageError
from project.optimization.optimizers import parameter_groups
from project.training.command import quieten_lightning
from project.training.run import run

WARM_UP = 5  # steps that are not counted
NEVER = "1000000"
PRECISIONS = ("32-true", "bf16-mixed", "bf16-true")  # of the hand-written step
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


def configured(arguments: list[str]) -> ProjectCLI:
    """Return what arguments of `project.train` describe, on one device, with the data opened.

    Raises:
        UsageError: If the hand-written step could not do the same.
    """
    quieten_lightning()
    cli = ProjectCLI([*arguments, "--wandb.mode", "disabled"])
    if not hasattr(cli.model, "network") or not isinstance(cli.datamodule, ImageData | TextData):
        raise UsageError(
            f"the benchmark knows the batches of ImageData and TextData, not of "
            f"{type(cli.datamodule).__name__} with {type(cli.model).__name__}"
        )
    if (precision := cli.config.trainer.precision) not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise UsageError(f"trainer.precision {precision} is not measured; choose of {known}")
    on_one_device(cli.config_init.trainer)
    cli.datamodule.prepare_data()
    cli.datamodule.setup("fit")
    return cli


def on_one_device(settings: Any) -> None:
    """Set what is `auto` of a Trainer: Lightning's may be a device that nothing else here uses.

    Raises:
        UsageError: If that leaves more than one process, or another kind of device.
    """
    meant = {"auto": device().type, "gpu": "cuda"}
    settings.accelerator = meant.get(settings.accelerator, settings.accelerator)
    if settings.accelerator not in ("cpu", device().type):
        raise UsageError(
            f"trainer.accelerator {settings.accelerator} is not measured here; choose of "
            f"{', '.join(sorted({'cpu', device().type}))}"
        )
    if settings.devices == "auto":
        settings.devices = 1
    if (str(settings.devices), settings.num_nodes) != ("1", 1):
        raise UsageError(
            f"trainer.devices {settings.devices} on {settings.num_nodes} nodes: one process is "
            "measured; set --trainer.devices 1 --trainer.num_nodes 1"
        )


def device_of(cli: ProjectCLI) -> torch.device:
    return torch.device(cli.config_init.trainer.accelerator)


def loop_step(arguments: list[str], steps: int) -> float:
    """Return the seconds of a step of a hand-written loop over the same batches."""
    cli = configured(arguments)
    step = hand_written(cli)
    batches = endless(cli.datamodule, device_of(cli))
    return seconds_each(lambda: step(*next(batches)[:2]), steps, WARM_UP)


def hand_written(cli: ProjectCLI) -> Callable[[Tensor, Tensor], None]:
    """Return one step, of (inputs, targets), as one writes it without Lightning."""
    settings = cli.config.trainer
    dtype = torch.bfloat16 if settings.precision == "bf16-true" else None
    network = cli.model.network.to(device_of(cli), dtype).train()
    speed = cli.config.speed
    torch.set_float32_matmul_precision(speed.matmul)
    if speed.threads:
        torch.set_num_threads(speed.threads)
    if speed.compile:
        network.compile()
    optimizer = (cli.model.optimizer or torch.optim.AdamW)(parameter_groups(network))
    return plain_step(network, optimizer, settings.precision, settings.gradient_clip_val)


def plain_step(
    network: nn.Module, optimizer: Optimizer, precision: str = "32-true", clip: float | None = None
) -> Callable[[Tensor, Tensor], None]:
    """Return a function that takes one step on (inputs, targets) by cross-entropy.

    Args:
        network: Is on the device that computes, and has the type of its inputs.
        precision: `bf16-mixed` computes in bfloat16 where that is safe, any other in the
            network's type.
        clip: Largest norm of the gradient.
    """
    parameters = list(network.parameters())
    place, dtype = parameters[0].device, parameters[0].dtype

    def step(inputs: Tensor, targets: Tensor) -> None:
        inputs, targets = inputs.to(place), targets.to(place)
        if inputs.is_floating_point():
            inputs = inputs.to(dtype)
        with torch.autocast(place.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
            logits = network(inputs)  # (B, K) or (B, T, V)
            loss = F.cross_entropy(logits.flatten(0, -2), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()

    return step


def endless(data: Any, place: torch.device) -> Iterator[Any]:
    """Yield the batches of one epoch over and over, from images on the device."""
    for split in data.splits.values():
        if isinstance(split, LabelledImages):
            split.images, split.labels = split.images.to(place), split.labels.to(place)
    while True:
        yield from data.train_dataloader()
