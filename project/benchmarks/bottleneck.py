"""What bounds the training step of a run, and which switch to try."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch

from project.benchmarks.hand_written import configured, device_of, endless, hand_written
from project.benchmarks.measuring import Figures, Samples, interleaved, seconds_each
from project.benchmarks.training_step import trainer_step
from project.costs.flops import training_flops

COMPUTING = 0.3  # share of the speed of a matrix product from which on a step is bound by it
WINDOW_SECONDS = 0.5
# Rows of what is measured.
LOADER, TRAINER = "loader alone", "whole run"
BARE, DOUBLED = "network, one fixed batch", "network, twice the batch"
FP32, BF16 = "matrix product, float32", "matrix product, bfloat16"
COPY = "copy, read and written"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Seconds and rates of one configuration.

    Attributes:
        loader: Seconds per batch of the loader alone.
        bare: Seconds of the network's step, with its optimizer, on one fixed batch.
        doubled: The same on a batch twice as large.
        trainer: Seconds per step of the whole run.
        operations: Of a step, None where they could not be counted.
        matmul: Attainable FLOP/s of a matrix product, by precision: `32-true`, `bf16-mixed`.
        copying: Bytes per second, read and written, of a large copy.
        precision: Of the run.
        batch_size: Of the run.
        num_workers: Of the run's loader.
        compiled: Whether the network is compiled already.
    """

    loader: float
    bare: float
    doubled: float
    trainer: float
    operations: float | None
    matmul: dict[str, float]
    copying: float
    precision: str = "32-true"
    batch_size: int = 0
    num_workers: int = 0
    compiled: bool = False

    @property
    def fixed(self) -> float:
        """Seconds of the bare step that would stay if the batch shrank to nothing."""
        return min(max(0.0, 2 * self.bare - self.doubled), self.bare)

    @property
    def used(self) -> float | None:
        """Share of the attainable matrix product that the rest of the bare step reaches."""
        if self.operations is None:
            return None
        attainable = self.matmul.get(self.precision, self.matmul["32-true"])
        return self.operations / max(self.bare - self.fixed, 1e-9) / attainable


def verdict(measured: Measured) -> tuple[str, list[str]]:
    """Return what bounds a step, and sentences that say why and what to try.

    A step is cut into three parts, and the largest one bounds it. `data`: the loader's time, with
    workers only what it takes longer than the network. `overhead`: what of the run's step is
    neither data nor network, and what of the network's would stay if the batch shrank to nothing,
    2 t(B) - t(2B): Python, launches of kernels, the optimizer. The rest grows with the batch:
    `compute` where it reaches 30 % of this machine's matrix product, else `memory`.
    """
    m = measured
    data = m.loader if m.num_workers == 0 else max(0.0, m.loader - m.bare)
    beside = max(0.0, m.trainer - data - m.bare)
    parts = {"data": data, "overhead": beside + m.fixed, "work": m.bare - m.fixed}
    bound = max(parts, key=lambda name: parts[name])
    share = f"{100 * parts[bound] / sum(parts.values()):.0f} % of a step"
    if bound == "data":
        return bound, of_data(m, share)
    if bound == "overhead":
        return bound, of_overhead(m, share, beside / sum(parts.values()))
    bound = "compute" if m.used is not None and m.used >= COMPUTING else "memory"
    return bound, of_work(m, share, bound)


def of_data(m: Measured, share: str) -> list[str]:
    more = f"--data.num_workers {m.num_workers + 2}"
    return [
        f"bound by data: {share} waits for the loader",
        f"try {more}, or less augmentation",
    ]


def of_overhead(m: Measured, share: str, beside: float) -> list[str]:
    remedies = [f"--data.batch_size {2 * m.batch_size}" if m.batch_size else "a larger batch"]
    if not m.compiled:
        remedies.append("--speed.compile true")
    remedies.append("fused: true of the optimizer, where it has it")
    return [
        f"bound by overhead: {share} (Python, launches, the optimizer) does not grow with the "
        f"batch, {100 * beside:.0f} % is outside the network; "
        f"a batch twice as large takes the network {m.doubled / m.bare:.1f} times as long",
        f"try {', then '.join(remedies)}",
    ]


def of_work(m: Measured, share: str, bound: str) -> list[str]:
    gain = m.matmul["bf16-mixed"] / m.matmul["32-true"]
    lower = "--trainer.precision bf16-mixed"
    is_lower = "16" in m.precision
    reached = "its operations could not be counted"
    if m.used is not None:
        reached = f"it reaches {100 * m.used:.0f} % of a matrix product's speed"
    if bound == "compute":
        remedy = "a smaller network, more processes or a faster device"
        if not is_lower and gain > 1.3:
            remedy = f"{lower}: a product in bfloat16 is {gain:.1f} times as fast here"
        return [f"bound by compute: {share} grows with the batch, and {reached}", f"try {remedy}"]
    moved = m.bare * m.copying / 1e6
    remedies = [] if is_lower else [lower]
    if not m.compiled:
        remedies.insert(0, "--speed.compile true, which joins element-wise operations")
    remedy = ", then ".join(remedies) or "a smaller network or a faster device"
    return [
        f"bound by memory: {share} grows with the batch, but {reached}; "
        f"in that time {moved:,.0f} MB could be copied",
        f"try {remedy}",
    ]


def bottleneck(arguments: list[str] | None = None, rounds: int = 3) -> list[Figures]:
    """Measure the run that arguments of `project.train` describe, and say what bounds it.

    Raises:
        UsageError: If its data, precision or devices are not those of the hand-written step.
    """
    arguments = arguments or []
    cli = configured(arguments)
    place = device_of(cli)
    batches = endless(cli.datamodule, place)
    batch = [part.to(place) for part in next(batches)[:2]]
    per_row = training_flops(cli.model.network, batch[0])
    operations = None if per_row is None else per_row * len(batch[0])
    twice = [torch.cat([part, part]) for part in batch]
    step = hand_written(cli)
    once = seconds_each(lambda: step(*batch), 1, 1)
    steps = min(50, max(3, round(WINDOW_SECONDS / once)))
    samples = interleaved(
        rounds,
        {
            LOADER: partial(seconds_each, lambda: next(batches), steps),
            BARE: partial(seconds_each, lambda: step(*batch), steps),
            DOUBLED: partial(seconds_each, lambda: step(*twice), steps),
            TRAINER: partial(trainer_step, arguments, steps),
        },
    )
    return judged(cli, operations, samples, interleaved(rounds, rates(place)))


def judged(cli: Any, operations: float | None, samples: Samples, speeds: Samples) -> list[Figures]:
    """Return the figures with the verdict as the notes of the first."""
    fp32, bf16 = (1e9 * median(speeds[name]) for name in (FP32, BF16))
    measured = Measured(
        loader=median(samples[LOADER]),
        bare=median(samples[BARE]),
        doubled=median(samples[DOUBLED]),
        trainer=median(samples[TRAINER]),
        operations=operations,
        matmul={"32-true": fp32, "bf16-mixed": bf16, "bf16-true": bf16},
        copying=1e9 * median(speeds[COPY]),
        precision=cli.config.trainer.precision,
        batch_size=cli.datamodule.batch_size,
        num_workers=getattr(cli.datamodule, "num_workers", 0),
        compiled=cli.config.speed.compile,
    )
    bound, sentences = verdict(measured)
    what = f"a training step of {cli.config.experiment} ({measured.precision})"
    machine = Figures("this machine", "GFLOP/s and GB/s", speeds)
    return [Figures(what, "seconds", samples, {}, [f"verdict: {bound}", *sentences]), machine]


def rates(place: torch.device) -> dict[str, Callable[[], float]]:
    """Return what measures GFLOP/s of a square matrix product, and GB/s of a copy."""
    side, numbers = (8192, 1 << 28) if place.type == "cuda" else (1024, 1 << 24)
    source = torch.ones(numbers, device=place)
    target = torch.empty_like(source)
    measures: dict[str, Callable[[], float]] = {}
    for name, dtype in ((FP32, torch.float32), (BF16, torch.bfloat16)):
        square = torch.rand(side, side, device=place).to(dtype)
        product = partial(torch.matmul, square, square)
        measures[name] = partial(rate, product, 2 * side**3)
    measures[COPY] = partial(rate, lambda: target.copy_(source), 2 * source.nbytes)
    return measures


def rate(action: Callable[[], Any], amount: int) -> float:
    return amount / seconds_each(action, 5, 2) / 1e9
