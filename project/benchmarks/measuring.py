"""What every section of the benchmark does: measure in turn, and say it as a table or as JSON."""

import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, TypeVar

import torch

Samples = dict[str, list[float]]
Setting = TypeVar("Setting")


@dataclass
class Figures:
    """What one comparison came to.

    Attributes:
        what: What was measured, and on what.
        unit: Of the samples.
        samples: By the name of a row, a figure for each round.
        ratios: By what is divided by what, a ratio for each round.
        notes: What the figures mean, or what was not measured and why.
    """

    what: str
    unit: str
    samples: Samples
    ratios: Samples = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def interleaved(rounds: int, measures: Mapping[str, Callable[[], float]]) -> Samples:
    """Measure all in turn, `rounds` times: what slows the machine for a while slows all of them."""
    samples: Samples = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            samples[name].append(measure())
    return samples


def ratios(samples: Samples, pairs: dict[str, tuple[str, str]]) -> Samples:
    """Return row over row within each round, for {name: (row above, row below)}."""
    return {
        name: [a / b for a, b in zip(samples[above], samples[below], strict=True)]
        for name, (above, below) in pairs.items()
    }


def device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def switched(
    get: Callable[[], Setting], switch: Callable[[Setting], None], value: Setting
) -> Iterator[None]:
    """Give a setting of torch another value while inside."""
    before = get()
    switch(value)
    try:
        yield
    finally:
        switch(before)


def num_threads(count: int) -> AbstractContextManager[None]:
    return switched(torch.get_num_threads, torch.set_num_threads, count)


def synchronize() -> None:
    """Wait until the GPU has done what it was told; called at the ends of a window alone."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_each(action: Callable[[], Any], times: int, warm_up: int = 3) -> float:
    """Return the mean seconds of an action over one window, after a warm-up."""
    for _ in range(warm_up):
        action()
    synchronize()
    started = time.perf_counter()
    for _ in range(times):
        action()
    synchronize()
    return (time.perf_counter() - started) / times


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    from project.hardware import cpu_name, usable_cores

    return {
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def document(figures: Figures) -> dict[str, Any]:
    """Return the figures with their medians, as JSON."""
    medians = {name: median(values) for name, values in figures.samples.items()}
    return asdict(figures) | {
        "medians": medians,
        "median_ratios": {name: median(values) for name, values in figures.ratios.items()},
    }


def table(figures: Figures) -> str:
    """Return median, minimum and maximum of each row and each ratio, then the notes."""
    width = max([36, *map(len, [*figures.samples, *figures.ratios])])
    lines = [f"{figures.what}: {figures.unit}"] if figures.samples else [figures.what]
    if figures.samples:
        lines.append(f"  {'':<{width}}{'median':>12}{'min':>12}{'max':>12}")
    for rows in (figures.samples, figures.ratios):
        for name, values in rows.items():
            numbers = (median(values), min(values), max(values))
            lines.append(f"  {name:<{width}}" + "".join(f"{short(n):>12}" for n in numbers))
    return "\n".join([*lines, *(f"  {note}" for note in figures.notes)])


def short(number: float) -> str:
    """Return a number with about four digits."""
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"
