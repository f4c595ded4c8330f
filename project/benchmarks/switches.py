"""What each switch is worth on this machine: compile, precision, layout, batch, optimizer, threads.

Each is set alone, on a fixed batch that is on the device.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from project.benchmarks.hand_written import plain_step
from project.benchmarks.measuring import (
    Figures,
    device,
    interleaved,
    num_threads,
    ratios,
    seconds_each,
    switched,
)
from project.models.cnn import CNN, ConvBlock
from project.models.transformer import GPT

PLAIN = "float32, nothing switched"


@dataclass
class Workload:
    """A network and its batches.

    Attributes:
        unit: What is counted: image or token.
        batch_size: Of the plain case.
        make_batch: Returns (inputs, targets) of a batch size.
    """

    name: str
    unit: str
    batch_size: int
    network: Callable[[], nn.Module]
    make_batch: Callable[[int], tuple[Tensor, Tensor]]


def random_image_batch(size: int) -> tuple[Tensor, Tensor]:
    images = torch.randn(size, 1, 28, 28, device=device())
    return images, torch.arange(size, device=device()) % 10


def random_token_batch(size: int) -> tuple[Tensor, Tensor]:
    tokens = torch.randint(0, 256, (size, 64), device=device())
    return tokens, tokens


WORKLOADS = (
    Workload("CNN (width 16)", "image", 128, partial(CNN, width=16), random_image_batch),
    Workload("GPT (width 128, depth 2)", "token", 12, partial(GPT, depth=2), random_token_batch),
)


def switches(rounds: int = 3, steps: int = 5, compiled: bool = True) -> list[Figures]:
    """Compare the time per image or token of a training step with one switch at a time."""
    found = [effects(workload, rounds, steps, compiled) for workload in WORKLOADS]
    return [*found, layouts(rounds, steps)]


def effects(workload: Workload, rounds: int, steps: int, compiled: bool) -> Figures:
    measure = partial(variant, workload, steps)
    few, many = workload.batch_size // 4, workload.batch_size * 4
    measures = {
        PLAIN: measure(),
        "bf16-mixed": measure(precision="bf16-mixed"),
        f"batch {few} in place of {workload.batch_size}": measure(batch_size=few),
        f"batch {many} in place of {workload.batch_size}": measure(batch_size=many),
        "fused AdamW": measure(fused=True),
    }
    threads = torch.get_num_threads()
    if device().type == "cuda":
        measures["matmul precision high (TF32)"] = measure(during=partial(matmul_precision, "high"))
    elif threads > 1:
        measures[f"1 thread in place of {threads}"] = measure(during=partial(num_threads, 1))
    notes = []
    if compiled:
        try:
            started = time.perf_counter()
            measures["compiled"] = measure(compiled=True)
            notes.append(f"compiling took {time.perf_counter() - started:.1f} s, once")
        except Exception as error:  # such as a machine without a C++ compiler
            notes.append(f"not compiled: {' '.join(str(error).split())[:200]}")
    samples = interleaved(rounds, measures)
    pairs = {f"{name}: time of it / of float32": (name, PLAIN) for name in list(samples)[1:]}
    what = f"switches for a step of {workload.name}, batch {workload.batch_size}"
    return Figures(
        what, f"microseconds per {workload.unit}", samples, ratios(samples, pairs), notes
    )


def variant(
    workload: Workload,
    steps: int,
    precision: str = "32-true",
    batch_size: int | None = None,
    fused: bool = False,
    compiled: bool = False,
    during: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Callable[[], float]:
    """Return what measures microseconds per unit; the first step, which compiles, is done."""
    torch.manual_seed(0)
    network = workload.network().to(device()).train()
    if compiled:
        network.compile()
    optimizer = torch.optim.AdamW(network.parameters(), fused=fused)
    inputs, targets = workload.make_batch(batch_size or workload.batch_size)
    step = partial(plain_step(network, optimizer, precision), inputs, targets)
    step()

    def measure() -> float:
        with during():
            return 1e6 * seconds_each(step, steps, 1) / targets.numel()

    return measure


def layouts(rounds: int, steps: int) -> Figures:
    """Compare channels first and last of three plain convolutions; `models.CNN` is always last."""
    formats = {"first": torch.contiguous_format, "last": torch.channels_last}
    measures = {
        f"channels {name}": variant(
            Workload("", "image", 64, partial(convolutions, form), partial(colour_batch, form)),
            steps,
        )
        for name, form in formats.items()
    }
    samples = interleaved(rounds, measures)
    quotient = ratios(samples, {"last / first": ("channels last", "channels first")})
    what = "layout of three convolutions (32, 64, 64 channels, batch 64 of 3 x 32 x 32)"
    return Figures(what, "microseconds per image", samples, quotient)


def convolutions(layout: torch.memory_format) -> nn.Module:
    blocks = [ConvBlock(3, 32), nn.MaxPool2d(2), ConvBlock(32, 64), nn.MaxPool2d(2)]
    network = nn.Sequential(*blocks, ConvBlock(64, 64), nn.Flatten(), nn.Linear(4096, 10))
    return network.to(memory_format=layout)


def colour_batch(layout: torch.memory_format, size: int) -> tuple[Tensor, Tensor]:
    images = torch.randn(size, 3, 32, 32, device=device()).to(memory_format=layout)
    return images, torch.arange(size, device=device()) % 10


def matmul_precision(name: str) -> AbstractContextManager[None]:
    get, switch = torch.get_float32_matmul_precision, torch.set_float32_matmul_precision
    return switched(get, switch, name)
