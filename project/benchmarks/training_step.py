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
from project.data.image_sets import LabelledImages
from project.messages import RunPruned
from project.training.command import quieten_lightning
from project.training.optimization import parameter_groups
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
    found = []
    for name, ((config, *changes), steps) in cases.items():
        arguments = ["--config", str(CONFIGS / config), *changes]
        steps = max(2, int(share * steps))
        with TemporaryDirectory() as cache:
            if "--data.corpus" in changes:
                arguments += ["--data.cache_dir", cache]
            measures = {
                "hand-written loop": partial(loop_step, arguments, steps),
                "Trainer": partial(trainer_step, arguments, steps),
            }
            samples = interleaved(rounds, measures)
        quotient = ratios(samples, {"Trainer / loop": ("Trainer", "hand-written loop")})
        what = f"a training step of {config.removesuffix('.yaml')} ({name})"
        found.append(Figures(what, "seconds", samples, quotient))
    return found


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


class Terminal(io.StringIO):
    """Takes what a run shows, as a terminal would, so that it draws its bar."""

    def isatty(self) -> bool:
        return True


def trainer_step(arguments: list[str], steps: int) -> float:
    """Return the seconds of a step of the run that `project.train` would do; nothing is kept."""
    timer = StepTimer(steps)
    with TemporaryDirectory() as folder, redirect_stdout(Terminal()), redirect_stderr(Terminal()):
        changes = ["--runs_dir", folder, "--trainer.max_epochs", "-1", "--trainer.max_steps", NEVER]
        changes += ["--trainer.check_val_every_n_epoch", "null"]
        changes += ["--trainer.val_check_interval", NEVER]
        with suppress(RunPruned):
            run(configured([*arguments, *changes]), [], callbacks=[timer], measure_test=False)
    return timer.seconds


def configured(arguments: list[str]) -> ProjectCLI:
    """Return what arguments of `project.train` describe, with the data opened."""
    quieten_lightning()
    cli = ProjectCLI([*arguments, "--wandb.mode", "disabled"])
    cli.datamodule.prepare_data()
    cli.datamodule.setup("fit")
    return cli


def loop_step(arguments: list[str], steps: int) -> float:
    """Return the seconds of a step of a hand-written loop over the same batches."""
    cli = configured(arguments)
    step = hand_written(cli)
    batches = endless(cli.datamodule)
    return seconds_each(lambda: step(*next(batches)[:2]), steps, WARM_UP)


def hand_written(cli: ProjectCLI) -> Callable[[Tensor, Tensor], None]:
    """Return one step, of (inputs, targets), as one writes it without Lightning."""
    network = cli.model.network.to(device()).train()
    speed = cli.config.speed
    torch.set_float32_matmul_precision(speed.matmul)
    if speed.threads:
        torch.set_num_threads(speed.threads)
    if speed.compile:
        network.compile()
    optimizer = (cli.model.optimizer or torch.optim.AdamW)(parameter_groups(network))
    settings = cli.config.trainer
    return plain_step(network, optimizer, settings.precision, settings.gradient_clip_val)


def plain_step(
    network: nn.Module, optimizer: Optimizer, precision: Any = None, clip: float | None = None
) -> Callable[[Tensor, Tensor], None]:
    """Return a function that takes one step on (inputs, targets) by cross-entropy.

    Args:
        precision: `bf16-mixed` and `16-mixed` compute in that type, any other in float32.
        clip: Largest norm of the gradient.
    """
    types = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
    parameters = list(network.parameters())

    def step(inputs: Tensor, targets: Tensor) -> None:
        inputs, targets = inputs.to(device()), targets.to(device())
        with torch.autocast(
            device().type, types.get(precision, torch.bfloat16), enabled=precision in types
        ):
            logits = network(inputs)  # (B, K) or (B, T, V)
            loss = F.cross_entropy(logits.flatten(0, -2), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()

    return step


def endless(data: Any) -> Iterator[Any]:
    """Yield the batches of one epoch over and over, from images on the device."""
    for split in data.splits.values():
        if isinstance(split, LabelledImages):
            split.images, split.labels = split.images.to(device()), split.labels.to(device())
    while True:
        yield from data.train_dataloader()
